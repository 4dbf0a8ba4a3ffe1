"""How figures look and are saved: a colour and marker for each method, PNG and PDF for papers, WebP for the page."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

CSS_DPI = 100  # one inch of a figure is 100 CSS pixels on the page, so that text of 9 pt has 12 px
DENSITY = 2  # pixels for each CSS pixel, for screens of double density; papers use the PDF
# The colours of Okabe & Ito (2008), which people with the common colour-vision deficiencies can tell apart. Yellow is
# left out, as it is too pale on white, and the blue is lighter, as theirs is hard to see on a dark ground.
_HUES = ("#1F7FBF", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


@dataclass(frozen=True)
class Theme:
    """Colours of the ground and of all that is drawn on it."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str


LIGHT = Theme("light", "#ffffff", "#1d2126", "#5b636d", "#e3e6ea")
DARK = Theme("dark", "#15181c", "#e6e8ea", "#9aa3ad", "#2c3238")


@dataclass(frozen=True)
class Drawing:
    """A figure to draw.

    Attributes:
        name: file name without suffix.
        title: what the figure shows.
        caption: how to read it, with n, and what to look for.
        alt: what somebody who cannot see it should know.
        draw: theme → figure; called inside the theme's settings.
        photographic: whether it is made of images, so that the page may hold it in lossy compression.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Theme], Figure]
    photographic: bool = False


@dataclass(frozen=True)
class Omitted:
    """A figure that could not be drawn, and why."""

    title: str
    reason: str


@dataclass(frozen=True)
class Saved:
    """A drawn figure: its files, its size on the page in CSS pixels, and its pictures as data URIs."""

    drawing: Drawing
    files: tuple[Path, ...]
    width: int
    height: int
    light: str
    dark: str


class Looks:
    """Colour and marker of every method; its place in the matrix decides them."""

    def __init__(self, labels: Iterable[str]) -> None:
        """Give each label the next hue and marker; labels with the same hue have different markers."""
        order = list(dict.fromkeys(labels))
        self.colour = {label: _HUES[i % len(_HUES)] for i, label in enumerate(order)}
        self.marker = {label: _MARKERS[i % len(_MARKERS)] for i, label in enumerate(order)}

    def of(self, label: str) -> dict[str, Any]:
        """Return a method's colour and marker as matplotlib's keywords."""
        return {"color": self.colour[label], "marker": self.marker[label]}


def slug(*parts: str) -> str:
    """Return a file name made of `parts` that needs no quotes in a shell or in LaTeX."""
    signs = {"+": " plus ", "−": " minus "}  # rows that differ only in these signs must not share a file
    said = ("".join(signs.get(c, c) for c in part) for part in parts)
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in said)


def unique(name: str, taken: set[str]) -> str:
    """Return `name`, with -2, -3, … after it if `taken` has it in any case of letters, and add it to `taken`."""
    numbered = (name if i == 1 else f"{name}-{i}" for i in itertools.count(1))
    free = next(found for found in numbered if found.casefold() not in taken)
    taken.add(free.casefold())
    return free


def settings(theme: Theme) -> Any:
    """Return matplotlib's settings for a theme, based on seaborn's style `ticks`."""
    import seaborn as sns

    colours = {
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "axes.edgecolor": theme.muted,
        "axes.facecolor": theme.paper,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "grid.color": theme.grid,
    }
    sizes = {
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.labelsize": 9,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.titlelocation": "left",
        "text.parse_math": False,  # names of rows and classes may hold `$`, which is no formula
        "pdf.fonttype": 42,  # text stays text: editable, and accepted by journals that refuse type 3
    }
    return {**sns.axes_style("ticks"), **sizes, **colours}


def picture(drawing: Drawing, folder: Path) -> tuple[Drawing, Path]:
    """Draw in the light theme alone, write a PNG to `folder`, and return the drawing, its caption complete, with it."""
    with _letters_may_lack():
        drawing, png, _ = _light(drawing, folder)
        return drawing, png


def save(drawing: Drawing, folder: Path) -> Saved:
    """Draw in both themes and write PNG and PDF of the light one to `folder`."""
    import matplotlib

    with _letters_may_lack():
        drawing, png, figure = _light(drawing, folder)
        pdf = png.with_suffix(".pdf")
        with matplotlib.rc_context(settings(LIGHT)):
            figure.savefig(pdf, metadata={"CreationDate": None})
        with matplotlib.rc_context(settings(DARK)):
            buffer = io.BytesIO()
            drawing.draw(DARK).savefig(buffer, dpi=DENSITY * CSS_DPI, pil_kwargs={"compress_level": 1})
    width, height = (round(inches * CSS_DPI) for inches in figure.get_size_inches())
    return Saved(drawing, (png, pdf), width, height, *(_webp(f, not drawing.photographic) for f in (png, buffer)))


@contextlib.contextmanager
def _letters_may_lack() -> Iterator[None]:
    # Matplotlib warns of every letter that its font lacks, such as Chinese ones. The caption says it once.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from", category=UserWarning)
        yield


def _light(drawing: Drawing, folder: Path) -> tuple[Drawing, Path, Figure]:
    """Write the PNG of the light theme; return the drawing, its caption complete, the file, and what was drawn."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    png = folder / f"{drawing.name}.png"
    with matplotlib.rc_context(settings(LIGHT)):
        figure = drawing.draw(LIGHT)
        figure.savefig(png, dpi=DENSITY * CSS_DPI, metadata={"Software": None})
    if lacking := _lacking_letters(figure):
        said = f"Boxes stand for letters that the font of figures lacks: {lacking}."
        drawing = replace(drawing, caption=f"{drawing.caption} {said}")
    return drawing, png, figure


def _lacking_letters(figure: Figure) -> str:
    """Return the letters in a figure's texts that its font lacks, each once."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    there = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    used = dict.fromkeys("".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)))
    return "".join(c for c in sorted(used) if ord(c) not in there and not c.isspace())


def _webp(png: Path | io.BytesIO, lossless: bool) -> str:
    """Return a PNG as a WebP data URI, a fifth to a half of its size."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(png) as image:
        image.convert("RGB").save(buffer, "WEBP", lossless=lossless, quality=60 if lossless else 90, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def log_scale(ax: Axes) -> None:
    """Give the x axis a logarithmic scale with plain numbers; matplotlib's own powers of ten are formulas."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""  # it leaves out what has no room

    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(Plain())
    ax.xaxis.set_minor_formatter(Plain(labelOnlyBase=False))


def legend_of_drawn(figure: Figure, lines: Mapping[str, Sequence[Line2D]]) -> None:
    """Put a legend below all axes that names what is drawn and nothing else.

    A method without a number in any panel has lines too, but all their points are NaN: naming it would send the reader
    looking for marks that are not there.

    Args:
        figure: the figure.
        lines: name → its line in each panel. The legend shows the first of them that has a point.
    """
    shown = {name: line for name, found in lines.items() if (line := next(filter(has_points, found), None))}
    legend_below(figure, list(shown.values()), list(shown))


def has_points(line: Line2D) -> bool:
    """Tell whether a line has at least one point that is not NaN."""
    return bool(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any())


def legend_below(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """Put one legend below all axes and keep room for it."""
    if not labels:
        return
    wanted = sum(0.55 + 0.075 * len(label) for label in labels)  # inches, about
    rows = math.ceil(wanted / figure.get_size_inches()[0])
    columns = math.ceil(len(labels) / rows)
    figure.legend(handles, labels, loc="lower center", ncols=columns, columnspacing=1.6, handletextpad=0.5)
    kept = (0.16 + 0.21 * rows) / figure.get_size_inches()[1]
    figure.set_layout_engine("constrained", rect=(0, kept, 1, 1 - kept))


def two_lines(name: str, limit: int = 16) -> str:
    """Break a long name at the space nearest to its middle."""
    spaces = [i for i, c in enumerate(name) if c == " "]
    if len(name) <= limit or not spaces:
        return name
    at = min(spaces, key=lambda i: abs(i - len(name) / 2))
    return f"{name[:at]}\n{name[at + 1 :]}"
