import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow.data.transforms import SquareTransform, UndecodableImage, decode, resize_shorter, to_tensor
from fluxflow.errors import ConfigError


def save(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 10, y * 15, x + y], axis=-1).astype(np.uint8))


def test_picture_of_the_right_size_passes_through_unchanged():
    image = gradient(16, 16)
    assert torch.equal(SquareTransform(16)(save(image), random.Random(0)), to_tensor(image))


def test_exif_orientation_is_applied():
    image = gradient()
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90° clockwise to view"
    stored = image.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(np.asarray(decode(save(stored, exif=exif))), np.asarray(image))


def test_transparency_is_laid_over_white():
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 0))
    assert [decode(save(rgba)).getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0), (255, 255, 255)]


def test_palette_transparency_is_laid_over_white():
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert decode(save(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    assert np.asarray(decode(save(Image.fromarray(levels))))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_other_modes_become_rgb(mode):
    image = gradient().convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    decoded = decode(save(image, kind))
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded, int) - np.asarray(image.convert("RGB"), int)).mean() < 8


def test_crops_and_flips_follow_the_generator_alone():
    transform, data = SquareTransform(16, crop="random", flip=0.5), save(gradient(48, 16))
    first = [transform(data, random.Random(seed)) for seed in range(20)]
    random.seed(5)
    assert all(torch.equal(a, transform(data, random.Random(seed))) for seed, a in enumerate(first))
    assert len({tensor.numpy().tobytes() for tensor in first}) > 15


def test_random_crops_reach_both_ends_and_centre_crops_the_middle():
    data, wide = save(gradient(24, 8)), to_tensor(gradient(24, 8))
    crops = [SquareTransform(8, crop="random")(data, random.Random(seed)) for seed in range(300)]
    lefts = {next(x for x in range(17) if torch.equal(wide[:, :, x : x + 8], crop)) for crop in crops}
    assert lefts == set(range(17))
    assert torch.equal(SquareTransform(8)(data, random.Random(0)), wide[:, :, 8:16])


def test_flip_mirrors_and_has_its_probability():
    data, image = save(gradient(8, 8)), to_tensor(gradient(8, 8))
    flipped = [torch.equal(SquareTransform(8, flip=0.25)(data, random.Random(s)), image.flip(-1)) for s in range(400)]
    assert torch.equal(SquareTransform(8, flip=1.0)(data, random.Random(0)), image.flip(-1))
    assert 70 < sum(flipped) < 130


def test_resizing_averages_away_what_the_target_cannot_hold():
    checks = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    assert np.asarray(resize_shorter(checks, 8), int).std() < 4


@pytest.mark.parametrize(("size", "expected"), [((100, 50), (20, 10)), ((7, 5), (14, 10)), ((1000, 3), (3333, 10))])
def test_shorter_side_gets_the_size(size, expected):
    assert resize_shorter(Image.new("RGB", size), 10).size == expected


def test_reduced_decoding_of_a_large_jpeg_agrees_with_full_decoding():
    data = save(gradient(24, 16).resize((960, 640), Image.Resampling.BICUBIC), "JPEG", quality=95)
    assert min(decode(data, 32).size) < 640
    full, reduced = (np.asarray(resize_shorter(image, 32), float) for image in (decode(data), decode(data, 32)))
    assert np.abs(full - reduced).mean() < 1


def test_header_of_a_giant_is_refused_before_decoding():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (8_001, 60_000):  # above our limit, and above the one where Pillow itself refuses
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        with pytest.raises(UndecodableImage, match="64 megapixels"):
            decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
        (save(gradient(), "BMP"), "not a JPEG"),
        (save(gradient(64, 64), "JPEG")[:300], "damaged|not a JPEG"),
        (save(gradient(64, 64), "PNG")[:-40], "damaged"),
    ],
)
def test_undecodable_bytes_have_a_reason(data, reason):
    with pytest.raises(UndecodableImage, match=reason):
        decode(data)


@pytest.mark.parametrize("options", [{"crop": "centre"}, {"flip": 1.5}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match=r"data\.(crop|flip)"):
        SquareTransform(8, **options)
