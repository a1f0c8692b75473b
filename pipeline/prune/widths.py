"""Widths that pay: rounded to what the device's kernels work in, or to widths that it was timed at."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pipeline.errors import ModelError

Widths = int | Collection[int]
Rounding = Literal["nearest", "up", "down"]


def round_width(wanted: float, full: int, to: Widths = 1, rounding: Rounding = "nearest") -> int:
    """Return the allowed width for `wanted` units of `full`: never zero, and never more than there are.

    Args:
        wanted: how many units should stay.
        full: how many there are; always allowed.
        to: multiples of this number are allowed, or just these widths.
        rounding: the nearest of them (of two equally near the even multiple, or the lesser width), the next one up,
            or the next one down; where there is none below, the least.

    Raises:
        ModelError: `to` is below 1, or holds no width from 1 to `full`.

    >>> round_width(13, 64, to=8), round_width(13, 64, to=8, rounding="down"), round_width(40, 64, to=(16, 48))
    (16, 8, 48)
    """
    if isinstance(to, int):
        if to < 1:
            raise ModelError(f"widths cannot be multiples of {to}", hint="multiple_of is at least 1")
        steps = wanted / to
        chosen = {"nearest": round(steps), "up": -int(-steps // 1), "down": int(steps)}[rounding]
        return min(full, max(1, chosen) * to)
    allowed = sorted({int(width) for width in to if 0 < int(width) <= full} | {full})
    if not any(0 < int(width) <= full for width in to):
        raise ModelError(f"no allowed width is from 1 to {full}", hint="give widths that the group can have")
    below, above = ([w for w in allowed if w <= wanted], [w for w in allowed if w >= wanted])
    if rounding == "up" or not below:
        return (above or allowed)[0]
    return below[-1] if rounding == "down" else min(allowed, key=lambda width: (abs(width - wanted), width))
