"""From encoded bytes to upright 8-bit RGB pixels.

JPEGs go through libjpeg-turbo by way of simplejpeg, all else through Pillow. What a stranger's file may cost is known
from its header, before any pixel is decoded. Colours are taken as sRGB: profiles are not applied. A PNG's EXIF data may
lie before its pixels or behind them.
"""

import io
import re
import zlib
from collections.abc import Iterator

import numpy as np
import PIL
import simplejpeg
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
PROFILES = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # ImageMagick's, and ExifTool's too before eXIf
MAX_CHUNKS = 1 << 20  # 8 GiB of pixels in chunks as libpng writes them
MAX_EXIF = 1 << 18  # bytes of a profile's text: two digits for each of the 64 KiB that EXIF may have, and more


def png_exif(data: bytes) -> bytes:
    """The EXIF data of a PNG: its eXIf chunk, or else a profile among its texts; empty if it has none.

    Raises:
        ValueError, zlib.error: for a profile that is damaged.
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


MAX_PIXELS = 64_000_000
BAND_PIXELS = 2**20
FORMATS = ("JPEG", "PNG", "WEBP")  # named, since some of Pillow's other formats run programs
EMPTY = "empty picture file"
UNKNOWN = "not a JPEG, PNG or WebP picture"
TOO_LARGE = "above 64 megapixels"
DAMAGED = "damaged picture"

ORIENTATION = 0x0112  # the EXIF tag: 1 to 8, how the stored picture is turned and mirrored to be upright
TURNED = range(5, 9)  # the orientations whose width is stored as the height
JPEG_START = b"\xff\xd8\xff"
MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)  # any number of fill bytes may stand before it
DIRECT = ("YCbCr", "RGB", "Gray")  # JPEG colours that simplejpeg turns into RGB; Pillow knows about CMYK and YCCK


class UndecodableImage(Exception):
    """Bytes that are no usable picture; the message is the reason, one of the few above, so that it can be counted."""


def decoder_name() -> str:
    """Names and versions of the decoders: what is kept of their results is stale once this changes."""
    return f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}"


def probe(data: bytes) -> tuple[int, int]:
    """Width and height of a picture, upright, from its header alone.

    Raises:
        UndecodableImage: for no picture, or one of more than 64 megapixels.
    """
    header = _jpeg_header(data)
    if header is not None:
        height, width, orientation = header
    else:
        image = _open(data)
        (width, height), orientation = image.size, _orientation(image, data)
    return (height, width) if orientation in TURNED else (width, height)


def decode(data: bytes, least: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a picture, transparency laid over white; of an animation the first frame.

    Args:
        data: JPEG, PNG or WebP file of at most 64 megapixels.
        least: height and width, upright, that will be used. A JPEG that has at least twice of both is decoded at a
            half, quarter or eighth of its size, but never below these, which saves most of the time. None: full size.

    Returns:
        uint8 [H, W, 3], writable.

    Raises:
        UndecodableImage: for no picture, a damaged one, or one of more than 64 megapixels.
    """
    header = _jpeg_header(data)
    if header is not None:
        height, width, orientation = header
        shape = least[::-1] if least and orientation in TURNED else least
        factor = max((f for f in (2, 4, 8) if shape and height >= f * shape[0] and width >= f * shape[1]), default=1)
        try:  # strict, the default: what libjpeg only warns of, such as a missing end, is an error
            pixels = simplejpeg.decode_jpeg(data, min_height=-(-height // factor), min_width=-(-width // factor))
        except ValueError as error:
            raise UndecodableImage(DAMAGED) from error
    else:
        image = _open(data)
        orientation = _orientation(image, data)
        try:
            pixels = _pixels(image)
        except Exception as error:  # a decoder fails on a stranger's bytes in more ways than it documents
            raise UndecodableImage(DAMAGED) from error
    return _upright(pixels, orientation)


def _jpeg_header(data: bytes) -> tuple[int, int, int] | None:
    """Stored height and width and the orientation of a JPEG that simplejpeg can decode; None for all else."""
    if not data.startswith(JPEG_START):
        return None
    try:
        *shape, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None  # to Pillow, which reads more kinds of them
    if colors not in DIRECT:
        return None
    height, width = map(int, shape)
    _check_size(width, height)
    if width * height > 512 * len(data):  # a block of 8 × 8 takes a bit at least: this size is forged
        raise UndecodableImage(DAMAGED)
    return height, width, _orientation(_open(data), data) if _has_exif(data) else 1


def _has_exif(data: bytes) -> bool:
    """Whether a JPEG has an EXIF segment; asked first, since Pillow takes twenty times as long to open it."""
    start = 2
    while (marker := MARKER.match(data, start)) and marker[1] != b"\xda":  # up to the start of the scan
        start = marker.end()
        if data[start + 2 : start + 8] == b"Exif\0\0":
            return True
        start += int.from_bytes(data[start : start + 2], "big")
    return False


def _open(data: bytes) -> Image.Image:
    """A picture whose header is read and whose size is borne, not yet decoded."""
    if not data:
        raise UndecodableImage(EMPTY)
    if data[8:16] == b"WEBPVP8X":  # its canvas, which Pillow would allocate before it tells the size
        _check_size(*(1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27)))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UndecodableImage(TOO_LARGE) from None
    except Exception as error:  # as in decode
        known = data.startswith((JPEG_START, PNG_START)) or data[8:12] == b"WEBP"
        raise UndecodableImage(DAMAGED if known else UNKNOWN) from error
    _check_size(*image.size)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UndecodableImage(TOO_LARGE)


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF orientation, 1 to 8; `getexif` would decode a whole PNG to look behind its pixels."""
    exif = Image.Exif()
    try:
        exif.load(png_exif(data) if data.startswith(PNG_START) else image.info.get("exif", b""))
        value = exif.get(ORIENTATION, 1)
    except Exception:  # as in decode; viewers, too, show a picture with broken EXIF as it is stored
        return 1
    return value if value in range(1, 9) else 1


def _pixels(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3], converted by bands: a picture near the cap is never held three times over."""
    image.load()
    rows = max(1, BAND_PIXELS // image.width)
    bands = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for band in bands:
        pixels[band[1] : band[3]] = _to_rgb(image.crop(band))
    return pixels


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip them, not scale them
        grey = (np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)
        return grey[:, :, None]
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    return np.asarray(image.convert("RGB"))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror [H, W, 3] as EXIF says (CIPA DC-008, 4.6.4, tag 274)."""
    if orientation == 1:
        return pixels
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
