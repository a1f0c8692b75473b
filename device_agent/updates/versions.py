"""Which of two versions is the newer one."""

from __future__ import annotations

import re

_RELEASE_PART = re.compile(r"[\d.]*")
_EARLIER = (
    "dev",
    "a",
    "alpha",
    "b",
    "beta",
    "c",
    "pre",
    "rc",
)  # than the release that they lead to, in this order
_RELEASE = len(_EARLIER)


def newer(one: str, other: str) -> bool:
    """Say whether `one` is newer than `other`: "0.10" is newer than "0.9", "1.0" than "1.0rc2"."""
    return _key(one) > _key(other)


def _key(version: str) -> tuple[list[int], int, list[int]]:
    found = _RELEASE_PART.match(version)
    release = found.group() if found else ""
    rest = version[len(release) :]
    numbers = [int(each) for each in release.split(".") if each]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    word = re.match(r"[-_.]*([A-Za-z]*)", rest)
    name = word[1].lower() if word else ""
    stage = _EARLIER.index(name) if name in _EARLIER else _RELEASE
    return numbers, stage, [int(each) for each in re.findall(r"\d+", rest)]
