"""The look of all figures, and their files: PDF, PNG or SVG, the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "GRID",
    "HATCHES",
    "INK",
    "STYLE",
    "SUFFIXES",
    "check_figure",
    "new_figure",
    "save_figure",
    "shortened",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Told apart by the colour-blind too (Okabe and Ito 2008), and dark enough on white."""
HATCHES = ("", "///", "...", "xxx")
INK, GRID = "#222222", "#d9d9d9"
STYLE: Any = {
    "svg.hashsalt": "edgecompile",
    "pdf.fonttype": 42,  # text stays text
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
}
SUFFIXES = (".pdf", ".png", ".svg")
_DPI = 200
_METADATA: dict[str, dict[str, str | None]] = {
    ".pdf": {"CreationDate": None, "Creator": "edgecompile"},
    ".png": {"Software": "edgecompile"},
    ".svg": {"Date": None, "Creator": "edgecompile"},
}


def check_figure(path: Path) -> None:
    """Raises UserError where the name is of no kind of figure, or nothing here can draw one."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("figures need matplotlib", fix="pip install 'edgecompile[compile]'") from None


def new_figure(width: float, height: float) -> Figure:
    """Inches. To be drawn, and saved, within `matplotlib.rc_context(STYLE)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """As its suffix says, whole or not at all. Raises UserError where it cannot be written."""
    suffix = path.suffix.lower()
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=_DPI, metadata=_METADATA[suffix])
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def shortened(text: str, most: int) -> str:
    """With dots in its middle where it is longer."""
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
