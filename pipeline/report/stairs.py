"""The device's staircases: how long a group's layers take at each width that was timed, and which one was chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.summary import GroupLine
from pipeline.report.svg import ACCENT, BEFORE, LINE, SOFT, canvas, inline
from pipeline.report.words import count, listed, shortened

COLUMNS = 2
MOST = 24
WIDTH_IN, HEIGHT_IN = 3.6, 1.25
HEADROOM = 1.15  # above the highest point, so that its mark is whole


def staircases(groups: Sequence[GroupLine]) -> Markup | None:
    """Draw milliseconds against width for each group with timed points, those that won most first; `None`: none has."""
    drawn = [group for group in groups if len(group.points) > 1][:MOST]
    if not drawn:
        return None
    rows = math.ceil(len(drawn) / COLUMNS)
    with canvas(WIDTH_IN, 0.3 + HEIGHT_IN * rows) as drawing:
        places = drawing.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes, group in zip(places, drawn, strict=False):
            _group(axes, group)
        for axes in places[len(drawn) :]:
            axes.set_axis_off()
        drawing.supxlabel("width, channels", fontsize=8, color=SOFT)
        drawing.supylabel("its layers, ms", fontsize=8, color=SOFT)
        names = listed([f"{group.name} {group.whole} to {group.kept}" for group in drawn[:6]])
        return inline(drawing, "stairs", f"Latency against width, {count(len(drawn))} groups: {names}")


def _group(axes: Axes, group: GroupLine) -> None:
    points = sorted(group.points)
    widths, times = [width for width, _ in points], [ms for _, ms in points]
    axes.plot(widths, times, color=BEFORE, linewidth=0.8, marker="o", markersize=2.2)
    for width in group.choices:
        axes.axvline(width, color=LINE, linewidth=0.4, zorder=0)
    axes.axvline(group.kept, color=ACCENT, linewidth=1.4)
    axes.set_title(shortened(group.name), fontsize=7.5, loc="left", pad=2)
    axes.set_ylim(0, HEADROOM * max(times))
    axes.tick_params(labelsize=6.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
