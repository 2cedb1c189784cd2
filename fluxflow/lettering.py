"""Text on image grids: in the font that the package carries, and for what that lacks in one of the machine.

`fluxflow/fonts` holds DejaVu Sans: Latin, Greek, Cyrillic and more. Chinese, Japanese, Korean or Indian letters come
from a font that fontconfig knows, where there is one.
"""

import functools
import logging
import shutil
import subprocess
import unicodedata
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

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
