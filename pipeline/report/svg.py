"""Matplotlib figures as inline SVG in the page's light or dark colours, the same bytes every time.

Figures are drawn in stand-in colours (`INK`, `ACCENT`, …); in the SVG each becomes a CSS variable.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree as ET

import matplotlib.style
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, SOFT, LINE, CARD = "#101112", "#202122", "#303132", "#fdfcfb"
ACCENT, BEFORE, GOOD, BAD, ZONE = "#404142", "#505152", "#606162", "#707172", "#808182"
VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    LINE: "line",
    CARD: "card",
    ACCENT: "accent",
    BEFORE: "before",
    GOOD: "good",
    BAD: "bad",
    ZONE: "zone",
}
LIGHT = {
    "ink": "#1c2127",
    "soft": "#59636e",
    "line": "#d5dae0",
    "card": "#ffffff",
    "accent": "#1f63b5",
    "before": "#7c8794",
    "good": "#1a7339",
    "bad": "#b3261e",
    "zone": "#e4f3e8",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edge-pipeline",
    "text.parse_math": False,
    "font.size": 8.8,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.color": LINE,
    "ytick.labelcolor": SOFT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
}
SPACE = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


@contextmanager
def canvas(width_in: float, height_in: float) -> Iterator[Figure]:
    """Yield an empty figure, to be drawn and turned into SVG within the context, which holds the style."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def inline(figure: Figure, name: str, alternative: str) -> Markup:
    """Return the figure as SVG; `name` keeps its ids its own, `alternative` is read aloud."""
    text = io.StringIO()
    with warnings.catch_warnings():
        # Letters that matplotlib's own font lacks are drawn by the browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(text, format="svg", metadata={"Date": None})
    root = ET.fromstring(text.getvalue())  # noqa: S314 - matplotlib wrote it just now
    for metadata in root.findall(f"{SPACE}metadata"):
        root.remove(metadata)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SPACE)
        element.attrib = {
            key.removeprefix(XLINK): _own(key, value, name) for key, value in element.attrib.items()
        }
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-label": alternative}
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - ElementTree escapes all texts


def standing_alone(figure: Markup) -> str:
    """Return an inline figure as a file of its own, in light colours on white."""
    text = str(figure)
    for name, colour in LIGHT.items():
        text = text.replace(f"var(--{name})", colour)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return text.replace("<svg ", f'<svg {names} style="background:#ffffff" ', 1) + "\n"


def _own(key: str, value: str, name: str) -> str:
    """Return an attribute's value with ids of this figure's own and the page's colours."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return value.replace("#", f"#{name}-", 1)
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var(--{variable})")
    return value.replace("url(#", f"url(#{name}-")
