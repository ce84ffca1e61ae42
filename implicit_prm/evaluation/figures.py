"""matplotlib figures as files and inside pages. Imported only where something is drawn: matplotlib is slow to load."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from matplotlib.figure import Figure

from implicit_prm.utils.io import atomic_write


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. Not pyplot's: no window and no global state."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file, atomically."""
    with atomic_write(path) as stream:
        stream.write(png(figure))


def embedded(figure: Figure) -> str:
    """The figure as the `src` of an `img` tag."""
    return f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}"
