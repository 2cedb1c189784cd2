import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow.data.images.buckets import Buckets
from fluxflow.data.images.decode import decode
from fluxflow.data.images.transforms import Transform, cover
from fluxflow.data.sources.records import Record
from fluxflow.errors import ConfigError
from tests.data.faults import picture, saved


def record(pixels: np.ndarray, *captions: str, kind: str = "PNG") -> Record:
    return Record("key", saved(pixels, kind), captions or ("a dress",))


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def lanczos(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The oracle: each channel in floating point."""
    channels = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]
    resized = [np.asarray(c.resize(size[::-1], Image.Resampling.LANCZOS)) for c in channels]
    return np.stack(resized, axis=-1).clip(0, 255)


def apply(transform: Transform, sample: Record, seed: int = 0) -> torch.Tensor:
    return transform(sample, transform.size(sample), random.Random(seed))["image"]


def test_picture_of_the_right_size_passes_through_unchanged():
    image = noise(16, 16)
    example = Transform(Buckets(16, 1))(record(image, "a dress"), (16, 16), random.Random(0))
    assert torch.equal(example["image"], tensor(image))
    assert (example["caption"], example["key"]) == ("a dress", "key")


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (16, 96), (7, 5)])
def test_images_are_uint8_with_channels_last_in_memory(size):
    image = cover(noise(100, 80), size)
    assert image.shape == (3, *size)
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()


def test_the_size_follows_the_shape_of_the_picture():
    transform = Transform(Buckets(64, 16, 2))
    for width, height, expected in ((90, 60, (48, 80)), (60, 90, (80, 48)), (50, 50, (64, 64)), (500, 20, (48, 80))):
        sample = record(noise(width, height))
        assert transform.size(sample) == expected
        assert apply(transform, sample).shape == (3, *expected)


@pytest.mark.parametrize("size", [(24, 96), (96, 24), (40, 40), (30, 50)])
def test_the_crop_is_the_largest_of_its_shape_and_lies_where_it_is_asked_for(size):
    """A picture of its own coordinates tells what was cut out."""
    rows, columns = np.mgrid[:200, :240].astype(np.uint8)
    image = np.stack([rows, columns, rows], axis=-1)
    height, width = min(200, 240 * size[0] // size[1]), min(240, 200 * size[1] // size[0])
    for x, y in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.25, 1.0)):
        found = cover(image, size, x, y).double()
        expected = [share * (side - length) + (length - 1) / 2 for share, side, length in
                    ((y, 200, height), (x, 240, width))]  # fmt: skip
        assert [found[0].mean().item(), found[1].mean().item()] == pytest.approx(expected, abs=1.2)
        assert (found[0, -1].mean() - found[0, 0].mean()).item() == pytest.approx(height * (1 - 1 / size[0]), abs=3)
        assert (found[1, :, -1].mean() - found[1, :, 0].mean()).item() == pytest.approx(
            width * (1 - 1 / size[1]), abs=3
        )


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(500, 375, (120, 160)), (300, 300, (128, 128)), (1100, 700, (140, 220)), (100, 90, (180, 200))],
)
def test_resizing_agrees_with_lanczos_in_floating_point(width, height, size):
    """Photographs have spectra of 1/f: the mean error of those stays near one hundredth of the range."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(np.random.default_rng(0).normal(size=(height, width))) / frequency
    pink = np.fft.irfft2(spectrum, s=(height, width))
    image = np.repeat((128 + 45 * pink / pink.std()).clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    found = cover(image, size).permute(1, 2, 0).double().numpy()
    error = np.abs(found - lanczos(image, size)).mean()
    nearest = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.NEAREST))
    assert error < 3
    assert width < 300 or error < 0.25 * np.abs(nearest - lanczos(image, size)).mean()


def zone_plate(side: int) -> np.ndarray:
    """Circles whose frequency rises from 0 in the middle to half a period a pixel at the edges."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.repeat(127.5 + 127.5 * np.cos(np.pi * (x * x + y * y) / side)[:, :, None], 3, axis=2).round()


@pytest.mark.parametrize("side", [192, 256, 512])
def test_frequencies_that_the_target_cannot_hold_do_not_come_back(side):
    """Where the plate has more than 1.3 times the target's highest frequency, grey is all that may remain."""
    target = 64
    found = cover(zone_plate(side).astype(np.uint8), (target, target)).double().numpy()[0]
    y, x = np.abs(np.mgrid[:target, :target] - (target - 1) / 2) * side / target
    too_fine = (np.maximum(x, y) / side > 1.3 * 0.5 * target / side) & (np.maximum(x, y) < 0.48 * side)
    assert too_fine.any()
    assert np.abs(found - 127.5)[too_fine].mean() < 6
    naive = zone_plate(side)[:: side // target, :: side // target, 0]
    assert np.abs(naive - 127.5)[too_fine].mean() > 60


def test_a_jpeg_decoded_smaller_agrees_with_the_whole():
    image = picture(960, 640)
    sample, size = record(image, kind="JPEG"), (64, 96)
    found = Transform(Buckets(80, 1))(sample, size, random.Random(0))["image"].permute(1, 2, 0).double().numpy()
    assert np.abs(found - lanczos(decode(sample.image), size)).mean() < 1


def test_crops_and_flips_follow_the_generator_alone():
    transform, sample = Transform(Buckets(16, 1), crop="random", flip=0.5), record(noise(48, 16))
    first = [apply(transform, sample, seed) for seed in range(20)]
    random.seed(5)
    assert all(torch.equal(a, apply(transform, sample, seed)) for seed, a in enumerate(first))
    assert len({image.numpy().tobytes() for image in first}) > 15


def test_random_crops_reach_both_ends_and_centre_crops_the_middle():
    sample, wide = record(noise(24, 8)), tensor(noise(24, 8))
    crops = [apply(Transform(Buckets(8, 1), crop="random"), sample, seed) for seed in range(300)]
    lefts = {next(x for x in range(17) if torch.equal(wide[:, :, x : x + 8], crop)) for crop in crops}
    assert lefts == set(range(17))
    assert torch.equal(apply(Transform(Buckets(8, 1)), sample), wide[:, :, 8:16])


def test_flip_mirrors_and_has_its_probability():
    sample, image = record(noise(8, 8)), tensor(noise(8, 8))
    flipped = [torch.equal(apply(Transform(Buckets(8, 1), flip=0.25), sample, s), image.flip(-1)) for s in range(400)]
    assert torch.equal(apply(Transform(Buckets(8, 1), flip=1.0), sample), image.flip(-1))
    assert 70 < sum(flipped) < 130


def test_captions_of_sides_and_writing_are_not_flipped():
    image = tensor(noise(8, 8))
    always = Transform(Buckets(8, 1), flip=1.0)
    unguarded = Transform(Buckets(8, 1), flip=1.0, flip_guard=None)
    own = Transform(Buckets(8, 1), flip=1.0, flip_guard=["heart"])
    sample = record(noise(8, 8), "a dress", "a heart on the left")
    assert torch.equal(apply(always, sample), image)
    assert torch.equal(apply(own, sample), image)
    assert torch.equal(apply(unguarded, sample), image.flip(-1))


def test_captions_are_drawn_by_rule_and_prefixed():
    sample = record(noise(8, 8), "a", "bbb", "cc")

    def drawn(**options: str) -> Counter[str]:
        transform = Transform(Buckets(8, 1), **options)
        return Counter(transform(sample, (8, 8), random.Random(seed))["caption"] for seed in range(300))

    counted = drawn(caption_rule="random", caption_prefix="photo:")
    assert set(counted) == {"photo: a", "photo: bbb", "photo: cc"}
    assert min(counted.values()) > 70
    assert drawn() == {"a": 300}
    assert drawn(caption_rule="longest") == {"bbb": 300}


def test_validation_keeps_sizes_and_prefix_and_leaves_nothing_to_chance():
    own = {"flip": 1.0, "flip_guard": None, "caption_rule": "longest", "caption_prefix": "photo:"}
    transform = Transform(Buckets(16, 8, 2), crop="random", **own)
    held_out, sample = transform.for_validation(), record(noise(48, 16), "a", "bbb")
    assert held_out.buckets is transform.buckets
    examples = [held_out(sample, (16, 16), random.Random(seed)) for seed in range(20)]
    assert {example["caption"] for example in examples} == {"photo: a"}
    assert all(torch.equal(example["image"], apply(Transform(transform.buckets), sample)) for example in examples)


@pytest.mark.parametrize("options", [{}, {"crop": "random"}, {"flip": 1.0}, {"caption_rule": "random"}])
def test_no_option_changes_how_many_numbers_are_drawn(options):
    rng, reference = random.Random(3), random.Random(3)
    for sample in (record(noise(8, 8), "a"), record(noise(9, 7), "left", "right")):
        Transform(Buckets(8, 1), **options)(sample, (8, 8), rng)
    for _ in range(2 * 4):
        reference.random()
    assert rng.random() == reference.random()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "middle"}, r"data\.transform\.crop is 'middle': it can be random or center"),
        ({"flip": 1.5}, r"data\.transform\.flip is 1\.5: it is a probability"),
        ({"flip": -0.5}, r"data\.transform\.flip is -0\.5"),
        ({"caption_rule": "any"}, r"data\.transform\.caption_rule is 'any'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        Transform(Buckets(8, 1), **options)
