"""How the report writes numbers: the same figure looks alike on the page, in a plot and in the terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

NBSP = "\u00a0"
NOT_MEASURED = "not measured"
NONE = "–"
UNITS = {"latency": "ms", "model_peak": "MB", "file": "MB", "energy": "mJ"}
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
RESOURCES = {"latency": "Latency", "model_peak": "Memory peak", "file": "Model file", "energy": "Energy"}


def number(value: float, digits: int = 3) -> str:
    """Write a number with `digits` significant digits, without an exponent and with all its whole digits."""
    if not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace(",", NBSP).replace("-", "−")


def quantity(value: float | None, unit: str, digits: int = 3) -> str:
    """Write a number and its unit, or that there is no number."""
    return (
        NOT_MEASURED if value is None or not math.isfinite(value) else f"{number(value, digits)}{NBSP}{unit}"
    )


def quantities(values: Sequence[float | None], unit: str) -> list[str]:
    """Write numbers that stand beside each other, with enough digits that different ones look different."""
    known = {value for value in values if value is not None}
    for digits in range(3, 7):
        if len({number(value, digits) for value in known}) == len(known):
            break
    return [quantity(value, unit, digits) for value in values]


def percent(value: float | None) -> str:
    """Write an accuracy."""
    return NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:.2f}{NBSP}%"


def signed_percent(share: float) -> str:
    """Write a relative difference with its sign, one decimal."""
    return f"{100 * share:+z.1f}{NBSP}%".replace("-", "−")


def count(value: int | None) -> str:
    """Write a whole number with its thousands apart."""
    return NONE if value is None else f"{value:,}".replace(",", NBSP)


def seconds(value: float) -> str:
    """Write a duration as a person would say it."""
    if value < 120:
        return quantity(value, "s", 2 if value < 10 else 3) if value >= 0.1 else f"<{NBSP}0.1{NBSP}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NBSP}h {minutes}{NBSP}min" if hours else f"{minutes}{NBSP}min {rest}{NBSP}s"


def listed(parts: Sequence[str]) -> str:
    """Join words as in a sentence: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def shortened(text: str, limit: int = 18) -> str:
    """Cut the middle out of a long name; both ends tell layers apart."""
    clean = printable(text)
    if len(clean) <= limit:
        return clean
    tail = (limit - 1) * 2 // 3
    return f"{clean[: limit - 1 - tail]}…{clean[-tail:]}"


def printable(text: str) -> str:
    """Replace what no page and no SVG can hold, and what would turn the direction of the text after it."""
    return "".join(_printable(each) for each in text)


def _printable(letter: str) -> str:
    if letter in "\n\r\t":
        return " "
    bad = unicodedata.category(letter) in {"Cc", "Cs", "Cn"} or unicodedata.bidirectional(letter) in TURNING
    return "\ufffd" if bad else letter
