"""Grids of captioned images for people to look at, and PNG files that say how they were made.

`fluxflow/fonts` holds DejaVu Sans: Latin, Greek, Cyrillic and more. Chinese, Japanese, Korean or Indian letters come
from a font that fontconfig knows, where there is one.
"""

import functools
import json
import logging
import math
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from fluxflow.files import replacing

SHIPPED = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
ABSENT = "\U0010ffff"  # no character, and drawn as what a font shows in place of those that it lacks

log = logging.getLogger(__name__)
_missed: set[str] = set()


class Lettering:
    """Text of one size.

    Args:
        size: in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.leading = size + 4  # pixels from line to line

    def width(self, line: str) -> float:
        """Return the width of a line in pixels."""
        return sum(font.getlength(part) for part, font in self._parts(line))

    def draw(self, paper: ImageDraw.ImageDraw, x: float, y: float, text: str, ink: tuple[int, int, int]) -> None:
        """Draw lines of text, whose upper left corner is (x, y); characters without a font are logged once."""
        if missing := set(text) - _missed - {character for character in text if _has(font_for(character), character)}:
            _missed.update(missing)
            log.warning("No font for %s was found: image grids show boxes. Install one, such as Noto Sans.",
                        " ".join(sorted(missing)))  # fmt: skip
        for number, line in enumerate(text.split("\n")):
            left, baseline = x, y + number * self.leading + self.size
            for part, font in self._parts(line):
                paper.text((left, baseline), part, ink, font, anchor="ls")
                left += font.getlength(part)

    def _parts(self, line: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        """Return the stretches of a line that one font has."""
        composed = unicodedata.normalize("NFC", line)
        return [("".join(part), _font(path, self.size)) for path, part in groupby(composed, font_for)]


@functools.cache
def font_for(character: str) -> Path:
    """Return the file of a font that has a character, or else of the one that the package carries."""
    if _has(SHIPPED, character):
        return SHIPPED
    found = _of_the_machine(character)
    return found if found is not None and _has(found, character) else SHIPPED


def _of_the_machine(character: str) -> Path | None:
    """Return the font that fontconfig names for a character."""
    command = shutil.which("fc-match")
    if command is None:
        return None
    asked = [command, "--format=%{file}", f":charset={ord(character):x}:scalable=true"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return Path(answer) if answer else None


@functools.cache
def _has(path: Path, character: str) -> bool:
    if character.isspace():
        return True
    try:
        masks: list[Any] = [_font(path, 32).getmask(one) for one in (character, ABSENT)]
        return bytes(masks[0]) != bytes(masks[1])
    except OSError:  # a font of pictures, or one that FreeType cannot read
        return False


@functools.cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


GAP, MARGIN = 6, 16  # pixels between pictures, and around the image grid
LABEL_WIDTH = 190  # at most
CELL = 160  # small pictures are enlarged by a whole factor to at least this side
INK, QUIET, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)
TEXT, SMALL = Lettering(15), Lettering(12)


@dataclass
class Row:
    """A row of an image grid: its label on the left, pictures, and a note under each picture."""

    label: str
    pictures: Sequence[Image.Image]
    notes: Sequence[str] = field(default_factory=list)


def to_pil(images: Tensor) -> list[Image.Image]:
    """Convert images [B, 3, H, W] in [-1, 1] to RGB pictures."""
    pixels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def grid(
    pictures: Sequence[Sequence[Image.Image]], captions: Sequence[str], columns: Sequence[str] = (), title: str = ""
) -> Image.Image:
    """Draw one row a caption, one column a seed.

    Args:
        pictures: one sequence of pictures for each caption.
        captions: the text at the left of each row, wrapped.
        columns: the text above each column, wrapped.
        title: a line above all.
    """
    return arranged([Row(caption, row) for caption, row in zip(captions, pictures, strict=True)], columns, title)


def reconstruction_grid(
    originals: Iterable[Tensor],
    reconstructions: Iterable[Tensor],
    captions: Sequence[str],
    title: str = "",
    columns: int = 8,
) -> Image.Image:
    """Draw originals above their reconstructions, with caption and PSNR under each pair.

    Args:
        originals: images [3, H, W] in [-1, 1], not all of one size.
        reconstructions: of the same shapes and range.
        captions: one an image, empty where it has none.
        title: a line above all.
        columns: images side by side.
    """
    before, after, notes, rows = [], [], [], []
    for original, reconstruction, caption in zip(originals, reconstructions, captions, strict=True):
        error = (original - reconstruction).float().square().mean().item()
        before += to_pil(original[None])
        after += to_pil(reconstruction[None])
        notes.append(" · ".join(filter(None, (_psnr(error), caption))))
    for start in range(0, len(before), columns):
        part = slice(start, start + columns)
        rows += [Row("original", before[part]), Row("reconstruction", after[part], notes[part])]
    return arranged(rows, title=title)


def arranged(rows: Sequence[Row], columns: Sequence[str] = (), title: str = "") -> Image.Image:
    """Draw rows of pictures with their texts on white paper; small pictures are enlarged by a whole factor."""
    width, height = (max(getattr(p, side) for row in rows for p in row.pictures) for side in ("width", "height"))
    factor = max(1, math.ceil(CELL / max(width, height)))
    width, height = width * factor, height * factor
    labels = [_wrap(row.label, LABEL_WIDTH, TEXT) for row in rows]
    notes = [[_wrap(note, width, SMALL, lines=3) for note in row.notes] for row in rows]
    heights = [
        max(height + max((_height(note, SMALL) for note in row_notes), default=0), _height(label, TEXT))
        for label, row_notes in zip(labels, notes, strict=True)
    ]
    left = MARGIN + math.ceil(max(TEXT.width(line) for label in labels for line in label.split("\n"))) + 2 * GAP
    headings = [_wrap(column, width, TEXT, lines=4) for column in columns]
    above = max((_height(heading, TEXT) for heading in headings), default=0)
    top = MARGIN + _height(title, TEXT) + above
    cells = max(len(row.pictures) for row in rows)
    right = max(left + cells * (width + GAP) - GAP, MARGIN + math.ceil(TEXT.width(title)))
    paper = Image.new("RGB", (right + MARGIN, top + sum(heights) + GAP * (len(rows) - 1) + MARGIN), PAPER)
    draw = ImageDraw.Draw(paper)
    TEXT.draw(draw, MARGIN, MARGIN, title, INK)
    for cell, heading in enumerate(headings):
        TEXT.draw(draw, left + cell * (width + GAP), top - above, heading, QUIET)
    for row, label, row_notes, row_height in zip(rows, labels, notes, heights, strict=True):
        TEXT.draw(draw, MARGIN, top, label, INK)
        for cell, picture in enumerate(row.pictures):
            size = (picture.width * factor, picture.height * factor)
            paper.paste(picture.resize(size, Image.Resampling.BICUBIC), (left + cell * (width + GAP), top))
        for cell, note in enumerate(row_notes):
            SMALL.draw(draw, left + cell * (width + GAP), top + height + 2, note, QUIET)
        top += row_height + GAP
    return paper


def save_png(picture: Image.Image, path: str | Path, metadata: Mapping[str, object]) -> None:
    """Write a PNG with `metadata` as text chunks: strings as they are, everything else as JSON.

    Raises:
        StorageError: it cannot be written.
    """
    info = PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    with replacing(Path(path)) as file:
        picture.save(file, "PNG", pnginfo=info)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the text chunks of a PNG."""
    with Image.open(path) as picture:
        picture.load()
        return {key: value for key, value in picture.info.items() if isinstance(key, str) and isinstance(value, str)}


def _psnr(mse: float) -> str:
    return f"{10 * math.log10(4 / mse):.1f} dB" if mse > 0 else "exact"  # 4: the range of [-1, 1], squared


def _height(text: str, letters: Lettering) -> int:
    return (text.count("\n") + 1) * letters.leading + 2 * GAP if text else 0


def _wrap(text: str, width: int, letters: Lettering, lines: int = 8) -> str:
    """Break `text` so that no line is wider than `width` pixels; what exceeds `lines` becomes `…`."""
    wrapped = [""]
    for word in text.split():
        if wrapped[-1] and letters.width(f"{wrapped[-1]} {word}") > width:
            wrapped.append("")
        elif wrapped[-1]:
            wrapped[-1] += " "
        for letter in word:  # letter by letter, for words that no line can hold
            if letters.width(wrapped[-1] + letter) > width:
                wrapped.append("")
            wrapped[-1] += letter
    if len(wrapped) > lines:
        last = wrapped[lines - 1]
        while letters.width(last + " …") > width:
            last = last[:-1]
        wrapped = [*wrapped[: lines - 1], last + " …"]
    return "\n".join(wrapped)
