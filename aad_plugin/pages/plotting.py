"""Plots for a paper: a figure's style, its files, and the refusal of a folder that takes none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aad_plugin.errors import BackendMissing, ConfigError

WIDTH_INCHES = 5.5  # a text column of most proceedings


def check_plots(folder: Path) -> None:
    """Raise, before anything is read, where plots cannot be drawn or written.

    Raises:
        BackendMissing: no matplotlib. ConfigError: the folder cannot be made.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendMissing("plots need matplotlib: pip install 'aad_plugin[report]'") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write plots to {folder}: {error.strerror or error}") from error


def figure_style() -> Any:
    """Return a context in which figures are drawn: SVG text stays text, and the same figure gives the same file."""
    from matplotlib import rc_context

    return rc_context({"svg.fonttype": "none", "svg.hashsalt": "aad", "font.size": 9})


def save_figure(canvas: Any, path: Path) -> list[Path]:
    """Write a matplotlib figure as SVG and as PNG at 300 dpi, inside :func:`figure_style`.

    Args:
        path: without suffix.
    Raises:
        ConfigError: the disk does not take them.
    """
    written = [path.with_suffix(".svg"), path.with_suffix(".png")]
    try:
        for file in written:
            canvas.savefig(file, dpi=300, metadata={"Date": None} if file.suffix == ".svg" else None)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error
    return written


def plain_text(text: str) -> str:
    """Return text that matplotlib draws as it stands. Dollar signs would start a formula."""
    return text.replace("$", r"\$")
