"""Image files as data URIs of WebP, as many as a page may carry."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

BUDGET = 9_000_000  # bytes of all images of a page as text; with Plotly's 5 MB it stays below 15 MB
MOST = 40  # image grids: more take seconds to encode, and a slider shows no more
LONGEST = 1600  # pixels of a side


@dataclass(frozen=True)
class Picture:
    """An image that a page carries.

    Args:
        title: what is written beside it.
        uri: `data:image/webp;base64,…`.
        width, height: in pixels.
    """

    title: str
    uri: str
    width: int
    height: int


def spread(count: int, keep: int) -> list[int]:
    """Return `keep` of the indices below `count`, evenly spread, the first and the last among them."""
    if keep >= count:
        return list(range(count))
    if keep <= 1:
        return [count - 1][:keep]
    return [round(place * (count - 1) / (keep - 1)) for place in range(keep)]


def embed(files: Sequence[tuple[str, Path]], budget: int = BUDGET, most: int = MOST) -> list[Picture]:
    """Return images by (title, file), evenly thinned out so that all take `budget` bytes at most.

    Those that cannot be read are left out.
    """
    chosen = [files[index] for index in spread(len(files), most)]
    found = [picture for title, file in chosen if (picture := encode(title, file))]
    while (size := sum(len(picture.uri) for picture in found)) > budget:
        found = [found[index] for index in spread(len(found), len(found) * budget // size)]
    return found


def encode(title: str, file: Path) -> Picture | None:
    """Return an image, shrunk where it is larger than a page needs, or None where it cannot be read."""
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    image.thumbnail((LONGEST, LONGEST))
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=82)
    uri = f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return Picture(title, uri, image.width, image.height)
