"""Why each group has the width that it has: what that cost, what it won, and what the widths beside it would do."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.report.summary import GroupLine, OtherWidth
from pipeline.survey import Survey


def explain(ground: Survey, chosen: Mapping[str, int]) -> tuple[GroupLine, ...]:
    """Return a line for each group that could shrink, those that won most first.

    Times are the device's table's, all other groups as they were chosen.

    Args:
        ground: what the widths were chosen on.
        chosen: Group → units kept; groups that are missing are whole.
    """
    widths = {**ground.full(), **chosen}
    lines = [_line(ground, name, widths) for name, choices in ground.widths.items() if len(choices) > 1]
    return tuple(sorted(lines, key=lambda line: -line.won_ms))


def _line(ground: Survey, name: str, widths: Mapping[str, int]) -> GroupLine:
    choices, kept = ground.widths[name], ground.kept[name]
    place = choices.index(widths[name])
    now_ms = ground.table_ms(widths)

    def other(position: int) -> OtherWidth | None:
        if not 0 <= position < len(choices):
            return None
        width = choices[position]
        return OtherWidth(
            width=width,
            kept_more=float(kept[position] - kept[place]),
            ms_more=ground.table_ms({**widths, name: width}) - now_ms,
        )

    stairs = ground.stairs.get(name)
    return GroupLine(
        name=name,
        whole=choices[-1],
        kept=widths[name],
        lost=float(kept[-1] - kept[place]),
        won_ms=ground.table_ms({**widths, name: choices[-1]}) - now_ms,
        choices=choices,
        narrower=other(place - 1),
        wider=other(place + 1),
        points=() if stairs is None else stairs.points,
        even=stairs is None or stairs.even,
    )
