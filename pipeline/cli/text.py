"""Text from elsewhere, made fit for a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Return a text whose control characters cannot steer the terminal; line breaks and tabs stay."""
    return "".join(_shown(sign) for sign in text)


def _shown(sign: str) -> str:
    return (
        sign
        if sign in "\n\t" or unicodedata.category(sign) not in {"Cc", "Cf", "Cs"}
        else f"\\x{ord(sign):02x}"
    )
