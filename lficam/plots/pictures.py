"""A figure as files: PNG for the screen, SVG and PDF for print; and how large it wants to be shown."""

import io
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files

if TYPE_CHECKING:  # the page reads pictures without drawing any
    from matplotlib.figure import Figure
    from PIL import Image

LINES, PHOTOS = 150, 120  # dpi of a figure of lines, and of one that holds images
STEP = 4  # colours of an image figure are rounded to multiples: at most 2 of 255 off, and half the bytes
LARGE = 300_000  # bytes of an SVG that the page and git are spared
SCALE = 1.25 * 96  # CSS pixels an inch at which the page shows a figure: its 9-point text then is 15 pixels high
_POINTS = {"pt": 72, "in": 1, "px": 96, "": 96}


def save(figure: "Figure", folder: Path, name: str) -> None:
    """Write a matplotlib figure as NAME.png, NAME.svg and NAME.pdf, the same bytes for the same figure freshly drawn.

    It keeps its layout from here on. Raises `InputError` when the disk refuses.
    """
    import matplotlib
    from PIL import Image

    images = any(axis.images for axis in figure.axes)
    dpi = PHOTOS if images else LINES
    shown, figure.dpi = figure.dpi, dpi
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, for all files and for the notebook
    edge = figure.get_tightbbox().padded(matplotlib.rcParams["savefig.pad_inches"])
    figure.dpi = shown
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches=edge, dpi=dpi, pil_kwargs={"compress_level": 0})
    picture = Image.open(buffer).convert("RGB")
    picture = rounded(picture) if images else picture
    with files.atomic(folder / f"{name}.png") as file:
        picture.save(file, format="png", optimize=True, dpi=(dpi, dpi))
    vector: dict[str, dict] = {"svg": {"metadata": {"Date": None}}, "pdf": {"metadata": {"CreationDate": None}}}
    for kind, options in vector.items():
        with matplotlib.rc_context({"svg.hashsalt": "lficam"}), files.atomic(folder / f"{name}.{kind}") as file:
            figure.savefig(file, format=kind, bbox_inches=edge, dpi=dpi, **options)


def svg(figure: "Figure") -> bytes:
    """A matplotlib figure of lines as SVG, the same bytes for the same figure freshly drawn."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lficam"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def rounded(picture: "Image.Image") -> "Image.Image":
    """An RGB image with its colours rounded to multiples of STEP; white stays white. Palettes would band the maps."""
    import numpy as np
    from PIL import Image

    colours = np.asarray(picture).astype(np.int16)
    near = np.minimum((colours + STEP // 2) // STEP * STEP, 255)
    return Image.fromarray(np.where(colours == 255, 255, near).astype(np.uint8))


def sharper(png: Path) -> Path:
    """The SVG beside a PNG if it is of lines and text alone and not large, else the PNG itself."""
    svg = png.with_suffix(".svg")
    if svg.is_file() and svg.stat().st_size <= LARGE and b"<image" not in svg.read_bytes():
        return svg
    return png


def width(content: bytes) -> int | None:
    """Width in CSS pixels at which a PNG or SVG (bytes) is to be shown, None if it does not say."""
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        density = content.find(b"pHYs", 0, 200)
        per_metre = struct.unpack(">I", content[density + 4 : density + 8])[0] if density > 0 else 0
        inches = struct.unpack(">I", content[16:20])[0] / (per_metre * 0.0254 or LINES)
        return round(SCALE * inches)
    found = re.search(rb'<svg[^>]*?\swidth="([\d.]+)(pt|in|px|)"', content[:4000])
    return round(SCALE * float(found[1]) / _POINTS[found[2].decode()]) if found else None
