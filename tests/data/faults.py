"""Broken and odd files, made on the spot, with what is to become of each."""

import io
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from fluxflow.data.images.decode import DAMAGED, EMPTY, TOO_LARGE, UNKNOWN

WIDTH, HEIGHT = 48, 32
WHITE = 255


@dataclass(frozen=True)
class Fault:
    """One sample.

    Args:
        name: its key; the suffix of its picture follows in `suffix`.
        data: the bytes of its picture.
        reason: why the picture is refused; empty where it is read.
        pixels: what is read, uint8 [H, W, 3] as float; None where it is refused.
        tolerance: mean absolute error that is allowed, of 255.
        caption: the bytes of its .txt, None for no such file.
        caption_is_bad: whether the caption is why the sample is refused.
    """

    name: str
    data: bytes
    reason: str = ""
    pixels: np.ndarray | None = None
    tolerance: float = 0.0
    caption: bytes | None = b"a garment"
    caption_is_bad: bool = False
    suffix: str = "jpg"


def picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A smooth picture of which no two orientations are alike."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    return (255 * np.stack([x, y, 0.5 + 0.5 * np.cos(6 * x * y)], axis=-1)).round().astype(np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(data, kind, **options)
    return data.getvalue()


def png(width: int, height: int, bits: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of the given header with compressed rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    body = b"".join(chunk(*extra) for extra in chunks) + chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    start = next(i for i in range(len(jpeg)) if jpeg[i : i + 2] in (b"\xff\xc0", b"\xff\xc2")) + 5
    return jpeg[:start] + struct.pack(">HH", height, width) + jpeg[start + 4 :]


def deflated_zeros(length: int) -> bytes:
    """`length` compressed zeros, without ever holding them."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(length >> 20)] + [packer.compress(bytes(length & 0xFFFFF))]
    return b"".join(parts) + packer.flush()


def faults() -> list[Fault]:
    """All of them, in a fixed order."""
    return [*truncated(), *strangers(), *modes(), *turned(), *animated(), *bombs(), *headers(), *captions()]


def truncated() -> Iterator[Fault]:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    files = {
        "baseline.jpg": saved(noise, "JPEG", quality=95),
        "progressive.jpg": saved(noise, "JPEG", quality=95, progressive=True),
        "plain.png": saved(noise, "PNG"),
        "lossy.webp": saved(noise, "WEBP", quality=90),
        "lossless.webp": saved(noise, "WEBP", lossless=True),
    }
    for file, data in files.items():
        name, suffix = file.split(".")
        for share in (1, 30, 70, 98):
            yield Fault(f"{name}_{share}", data[: len(data) * share // 100], DAMAGED, suffix=suffix)
    yield Fault("jpeg_without_end", files["baseline.jpg"][:-2], DAMAGED)
    broken = bytearray(files["baseline.jpg"])
    middle = len(broken) // 2
    broken[middle : middle + 200] = b"\xfe" * 200
    yield Fault("corrupt_huffman", bytes(broken), DAMAGED)
    flipped = bytearray(files["plain.png"])
    flipped[len(flipped) // 2] ^= 0xFF
    yield Fault("png_wrong_checksum", bytes(flipped), DAMAGED, suffix="png")


def strangers() -> Iterator[Fault]:
    image = picture()
    yield Fault("zero_bytes", b"", EMPTY)
    yield Fault("one_byte", b"\xff", UNKNOWN)
    yield Fault("text", b"not a picture at all\n" * 20, UNKNOWN)
    yield Fault("html", b"<!DOCTYPE html><html><body>404</body></html>", UNKNOWN)
    yield Fault("nulls", bytes(5000), UNKNOWN)
    for kind in ("GIF", "BMP", "TIFF"):
        yield Fault(kind.lower(), saved(image, kind), UNKNOWN)
    yield Fault("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n", UNKNOWN)
    yield Fault("png_named_jpg", saved(image, "PNG"), pixels=image)


def modes() -> Iterator[Fault]:
    image = picture()
    rgb = Image.fromarray(image)
    grey = np.asarray(rgb.convert("L"))
    three = np.repeat(grey[:, :, None], 3, axis=2)
    yield Fault("cmyk", saved(rgb.convert("CMYK"), "JPEG", quality=95), pixels=image, tolerance=3)
    yield Fault("ycck", adobe_ycck(image), pixels=image, tolerance=4)
    yield Fault("grey_jpeg", saved(grey, "JPEG", quality=95), pixels=three, tolerance=2)
    yield Fault("rgb_jpeg", saved(rgb, "JPEG", quality=95, keep_rgb=True), pixels=image, tolerance=3)
    yield Fault("progressive", saved(rgb, "JPEG", quality=95, progressive=True), pixels=image, tolerance=3)
    levels = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 40).astype(np.uint16)
    sixteen = np.repeat((levels // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    yield Fault("grey_16_bit", saved(levels, "PNG"), pixels=sixteen, suffix="png")
    wide = b"".join(b"\0" + row.tobytes() for row in (image.astype(">u2") * 257))
    yield Fault("rgb_16_bit", png(WIDTH, HEIGHT, 16, 2, zlib.compress(wide)), pixels=image, suffix="png")
    palette = rgb.quantize(200)
    seen = np.asarray(palette.convert("RGB"))
    yield Fault("palette", saved(palette, "PNG"), pixels=seen, suffix="png")
    over = seen.copy()
    over[np.asarray(palette) == 7] = WHITE
    yield Fault("palette_transparent", saved(palette, "PNG", transparency=7), pixels=over, suffix="png")
    alpha = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
    share = alpha[:, :, None] / 255

    def over_white(pixels: np.ndarray) -> np.ndarray:
        return (pixels * share + WHITE * (1 - share)).round()

    rgba = np.dstack([image, alpha])
    yield Fault("rgba", saved(rgba, "PNG"), pixels=over_white(image), tolerance=0.5, suffix="png")
    yield Fault("la", saved(Image.fromarray(np.dstack([grey, alpha]), "LA"), "PNG"), pixels=over_white(three),
                tolerance=0.5, suffix="png")  # fmt: skip
    yield Fault("rgba_webp", saved(rgba, "WEBP", lossless=True, exact=True), pixels=over_white(image), tolerance=0.5,
                suffix="webp")  # fmt: skip
    one = rgb.convert("1")
    yield Fault("one_bit", saved(one, "PNG"), pixels=np.asarray(one.convert("RGB")), suffix="png")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    yield Fault("profile", saved(rgb, "JPEG", quality=95, icc_profile=profile), pixels=image, tolerance=3)
    yield Fault("profile_broken", saved(rgb, "PNG", icc_profile=b"nonsense"), pixels=image, suffix="png")
    yield Fault("exif_broken", saved(rgb, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), pixels=image, suffix="png")


def adobe_ycck(image: np.ndarray) -> bytes:
    """What Adobe programs write: inverted CMYK, here without black, and the other three inks coded as YCbCr."""
    ink = np.asarray(Image.fromarray(255 - image).convert("YCbCr"))
    planes = np.dstack([255 - ink, np.zeros_like(ink[:, :, :1])])  # Pillow inverts what it writes, as Adobe does
    data = saved(Image.frombytes("CMYK", (WIDTH, HEIGHT), planes.tobytes()), "JPEG", quality=95)
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\x02" + data[transform + 1 :]


def turned() -> Iterator[Fault]:
    image = picture()
    ways = Image.Transpose
    undo = {2: ways.FLIP_LEFT_RIGHT, 3: ways.ROTATE_180, 4: ways.FLIP_TOP_BOTTOM, 5: ways.TRANSPOSE,
            6: ways.ROTATE_90, 7: ways.TRANSVERSE, 8: ways.ROTATE_270}  # fmt: skip
    for orientation, way in undo.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(image).transpose(way)
        for suffix, kind, tolerance in (("jpg", "JPEG", 3), ("png", "PNG", 0), ("webp", "WEBP", 0)):
            options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
            data = saved(stored, kind, exif=exif, **options)
            yield Fault(f"turned_{orientation}_{suffix}", data, pixels=image, tolerance=tolerance, suffix=suffix)
    yield from turned_in_other_ways(image)
    exif = Image.Exif()
    exif[0x0112] = 99
    yield Fault("turned_99", saved(image, "PNG", exif=exif), pixels=image, suffix="png")


def turned_in_other_ways(image: np.ndarray) -> Iterator[Fault]:
    """EXIF where other programs put it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(image).transpose(Image.Transpose.ROTATE_90)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(stored)))
    tiff = exif.tobytes()[6:]
    for form, raw in (("exif", tiff), ("exif", exif.tobytes()), ("APP1", exif.tobytes())):
        digits = "\n".join(raw.hex()[at : at + 72] for at in range(0, 2 * len(raw), 72))
        text = f"\n{form}\n{len(raw):8d}\n{digits}\n".encode()
        keyword = f"Raw profile type {form}".encode() + b"\0"
        chunks = {"eXIf": (b"eXIf", tiff), "tEXt": (b"tEXt", keyword + text),
                  "zTXt": (b"zTXt", keyword + b"\0" + zlib.compress(text)),
                  "iTXt": (b"iTXt", keyword + b"\1\0en\0key\0" + zlib.compress(text)),
                  "iTXt_plain": (b"iTXt", keyword + b"\0\0\0\0" + text)}  # fmt: skip
        for name, chunk in chunks.items():
            before, plain = png(*stored.size, 8, 2, rows, chunk), png(*stored.size, 8, 2, rows)
            behind = plain[:-12] + before[33 : before.index(b"IDAT") - 4] + plain[-12:]
            for place, data in (("before", before), ("behind", behind)):
                yield Fault(f"turned_{form}{len(raw)}_{name}_{place}", data, pixels=image, suffix="png")
    bomb = (b"zTXt", b"Raw profile type exif\0\0" + deflated_zeros(50 << 20))
    data = png(*stored.size, 8, 2, rows)
    yield Fault("turned_not", data[:-12] + png(1, 1, 8, 2, b"", (b"eXIf", b"nonsense"))[33:-24] + data[-12:],
                pixels=np.asarray(stored), suffix="png")  # fmt: skip
    yield Fault("turned_bomb", png(*stored.size, 8, 2, rows, bomb), DAMAGED, suffix="png")
    jpeg = saved(stored, "JPEG", quality=95, exif=exif)
    start = jpeg.index(b"\xff\xe1")
    yield Fault("turned_filled", jpeg[:start] + b"\xff" * 3 + jpeg[start:], pixels=image, tolerance=3)
    grey = saved(stored.convert("CMYK"), "JPEG", quality=95, exif=exif)
    start = grey.index(b"\xff\xe1")
    yield Fault("turned_filled_cmyk", grey[:start] + b"\xff" + grey[start:], pixels=image, tolerance=3)


def animated() -> Iterator[Fault]:
    first, second = Image.fromarray(picture()), Image.new("RGB", (WIDTH, HEIGHT), "red")
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(first, kind, save_all=True, append_images=[second], duration=100, **options)
        yield Fault(f"animated_{kind.lower()}", data, pixels=picture(), suffix=kind.lower())


def bombs() -> Iterator[Fault]:
    small = saved(picture(), "JPEG")
    yield Fault("bomb_png", png(20000, 20000, 8, 0, deflated_zeros(20001 * 20000)), TOO_LARGE, suffix="png")
    yield Fault("bomb_png_header", png(2**31 - 1, 2**31 - 1, 8, 2, b""), TOO_LARGE, suffix="png")
    yield Fault("bomb_text_chunk", png(WIDTH, HEIGHT, 8, 0, zlib.compress(bytes((WIDTH + 1) * HEIGHT)),
                (b"zTXt", b"Comment\0\0" + deflated_zeros(200 << 20))), DAMAGED, suffix="png")  # fmt: skip
    yield Fault("bomb_jpeg", with_size(small, 65500, 65500), TOO_LARGE)
    yield Fault("bomb_jpeg_below_the_cap", with_size(small, 8000, 8000), DAMAGED)
    canvas = struct.pack("<I", 0x10)[:1] + bytes(3) + b"\xff\xff\xff" + b"\xff\x00\x00"
    extended = b"WEBPVP8X" + struct.pack("<I", 10) + canvas
    yield Fault("bomb_webp_canvas", b"RIFF" + struct.pack("<I", len(extended)) + extended, TOO_LARGE, suffix="webp")
    lossless = bytearray(saved(Image.new("RGB", (64, 64)), "WEBP", lossless=True))
    bits = int.from_bytes(lossless[21:25], "little") | 0xFFFFFFF  # 14 bits each of width and height, less one
    lossless[21:25] = bits.to_bytes(4, "little")
    yield Fault("bomb_webp_sides", bytes(lossless), TOO_LARGE, suffix="webp")


def headers() -> Iterator[Fault]:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg = saved(image, "JPEG", quality=95)
    yield Fault("jpeg_claims_less", with_size(jpeg, 8, 8), DAMAGED)
    yield Fault("jpeg_claims_more", with_size(jpeg, 64, 640), DAMAGED)
    yield Fault("jpeg_of_no_size", with_size(jpeg, 0, 64), DAMAGED)
    yield Fault("png_of_no_size", png(0, 0, 8, 2, b""), DAMAGED, suffix="png")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in image))
    black = np.vstack([image, np.zeros((64, 64, 3), np.uint8)])  # Pillow asks no PNG whether its rows are complete
    yield Fault("png_claims_more", png(64, 128, 8, 2, rows), pixels=black, suffix="png")


def captions() -> Iterator[Fault]:
    image = picture()
    data = saved(image, "PNG")
    for name, caption in (("no_caption", None), ("empty_caption", b""), ("blank_caption", b" \n\t"),
                          ("caption_not_utf8", b"caf\xe9")):  # fmt: skip
        yield Fault(name, data, caption=caption, caption_is_bad=True, suffix="png")
    yield Fault("caption_with_bom", data, pixels=image, caption=b"\xef\xbb\xbfa garment", suffix="png")


def write_folder(root: Path, chosen: list[Fault]) -> Path:
    """Each sample as a picture with a .txt beside it."""
    root.mkdir(parents=True)
    for fault in chosen:
        (root / f"{fault.name}.{fault.suffix}").write_bytes(fault.data)
        if fault.caption is not None:
            (root / f"{fault.name}.txt").write_bytes(fault.caption)
    return root


def write_shard(path: Path, chosen: list[Fault]) -> Path:
    """The same samples as one tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for fault in chosen:
            files = {fault.suffix: fault.data} | ({} if fault.caption is None else {"txt": fault.caption})
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{fault.name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def counts(chosen: list[Fault]) -> Counter[str]:
    """How many pictures are to be refused for each reason; "" counts those that are read.

    Those whose captions are bad are left out: readers word their reasons.
    """
    return Counter(fault.reason for fault in chosen if not fault.caption_is_bad)
