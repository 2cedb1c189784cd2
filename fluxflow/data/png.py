"""EXIF data of a PNG, before or behind its pixels, from its chunks alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PNG_START = b"\x89PNG\r\n\x1a\n"
PROFILES = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # ImageMagick's, and ExifTool's too before eXIf
MAX_CHUNKS = 1 << 20  # 8 GiB of pixels in chunks as libpng writes them
MAX_EXIF = 1 << 18  # bytes of a profile's text: two digits for each of the 64 KiB that EXIF may have, and more


def png_exif(data: bytes) -> bytes:
    """The EXIF data of a PNG: its eXIf chunk, or else a profile among its texts; empty if it has none.

    Raises:
        ValueError, zlib.error: For a profile that is damaged.
    """
    profile = b""
    for kind, start, end in _chunks(data):
        if kind == b"eXIf":
            return data[start:end]
        if kind in TEXTS and not profile and data.startswith(PROFILES, start):
            content = data[start : min(end, start + MAX_EXIF)].partition(b"\0")[2]
            profile = _from_hex(TEXTS[kind](content))
    return profile


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk."""
    at = len(PNG_START)
    for _ in range(MAX_CHUNKS):
        start = at + 8
        if start > len(data):
            return
        end = start + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : start], start, end
        at = end + 4  # behind its checksum


def _international(content: bytes) -> bytes:
    """The text of an iTXt behind its keyword: flag and method of compression, language, keyword again, text."""
    text = content[2:].split(b"\0", 2)[-1]
    return _inflated(b"\0" + text) if content[:1] == b"\1" else text


def _inflated(content: bytes) -> bytes:
    """The text of a zTXt behind its keyword: a byte for the method, then deflated."""
    return zlib.decompressobj().decompress(content[1:], MAX_EXIF)


TEXTS = {b"tEXt": bytes, b"zTXt": _inflated, b"iTXt": _international}


def _from_hex(text: bytes) -> bytes:
    """The bytes of a profile: a line with its name, one with its length, then hexadecimal digits."""
    digits = b"".join(text.strip().split(b"\n", 2)[-1].split())
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
