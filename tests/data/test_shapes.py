"""Pictures of shapes: the pixels and the captions against the truth that they are made from."""

import io
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow.data import DataModule, ShapesReader
from fluxflow.data.images.decode import decode
from fluxflow.data.prepare.run import prepare
from fluxflow.data.prepare.scan import Options
from fluxflow.data.shapes import captions as words
from fluxflow.data.shapes.maker import GAP, MARGIN
from fluxflow.data.shapes.render import coverage, encode, render
from fluxflow.data.shapes.scene import (
    ATTRIBUTES,
    COLORS,
    PLACES,
    SHAPES,
    SIZES,
    Background,
    Scene,
    SceneObject,
    combinations,
    is_held_out,
    place,
    relation,
)
from fluxflow.data.sources.records import Record, ordered
from fluxflow.data.sources.shards import ShardReader
from fluxflow.errors import ConfigError
from tests.data.sources import sized

ALL = ShapesReader("train", 64, samples=1500)
SAMPLES = [ALL.sample(index) for index in range(len(ALL))]


def test_objects_neither_touch_one_another_nor_the_border():
    for scene, _ in SAMPLES:
        for number, a in enumerate(scene.objects):
            assert all(MARGIN + a.reach <= centre <= 1 - MARGIN - a.reach for centre in (a.x, a.y))
            others = scene.objects[:number]
            assert all(math.dist((a.x, a.y), (b.x, b.y)) >= a.reach + b.reach + GAP for b in others)
            assert SIZES[a.size][0] <= a.reach <= SIZES[a.size][1]


def test_every_number_shape_color_size_place_and_relation_occurs():
    objects = [thing for scene, _ in SAMPLES for thing in scene.objects]
    assert {len(scene.objects) for scene, _ in SAMPLES} == {1, 2, 3, 4}
    assert {len(scene.groups()) for scene, _ in SAMPLES} == {1, 2, 3, 4}
    assert {thing.shape for thing in objects} == set(SHAPES)
    assert {thing.color for thing in objects} == set(COLORS)
    assert {thing.size for thing in objects} == {"small", "large"}
    assert {scene.place() for scene, _ in SAMPLES} == {None, *PLACES}
    assert {scene.relation() for scene, _ in SAMPLES} == {None, *words.RELATION_WORDS}


def test_held_out_combinations_are_a_fifth_are_spread_and_are_never_shown():
    held_out = combinations(held_out=True)
    assert abs(len(held_out) / (len(SHAPES) * len(COLORS)) - 0.2) < 0.02
    for names, position in ((SHAPES, 0), (COLORS, 1)):
        lost = Counter(look[position] for look in held_out)
        assert all(1 <= lost[name] <= 2 for name in names)
    shown = {(thing.shape, thing.color) for scene, _ in SAMPLES for thing in scene.objects}
    assert shown == set(combinations(held_out=False))
    validation = ShapesReader("val", 64, val_samples=500)
    assert not any(
        is_held_out(thing.shape, thing.color) for i in range(500) for thing in validation.sample(i)[0].objects
    )


NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
PHRASE = re.compile(
    f"({'|'.join(NUMBERS)})(?: (small|little|large|big))?(?: ({'|'.join(COLORS)}))? ({'|'.join(SHAPES)})(e?s)?"
)


def read(caption: str) -> tuple[Counter, str | None, list[str] | None]:
    """A caption → its groups (number, size, colour, shape; None for what is not said), place and relation."""
    text = re.sub(r"^(a picture of|an image of|a drawing of|a picture that shows) ", "", caption)
    found_place = next((name for name, said in words.PLACE_WORDS.items() if text.endswith(said)), None)
    for said in words.PLACE_WORDS.get(found_place or "", ()):
        text = text.removesuffix(f" {said}")
    related = re.split(r" (?:to the )?(left|right)(?: of) | (above|below) ", text)
    phrases = re.split(r", | and ", text) if len(related) == 1 else [related[0], related[-1]]
    groups: list[tuple] = []
    for phrase in phrases:
        match = PHRASE.fullmatch(phrase)
        assert match, caption
        number, size, color, shape, plural = match.groups()
        assert (number in ("a", "an")) == (plural is None), caption
        assert plural is None or (plural == "es") == (shape == "cross"), caption
        assert number not in ("a", "an") or (number == "an") == (phrase.split()[1][0] in "aeiou"), caption
        groups.append((NUMBERS[number], {"little": "small", "big": "large"}.get(size, size), color, shape))
    said = [name for name in related[1:-1] if name]
    return Counter(groups), found_place, [*said, *groups] if said else None


def test_captions_say_the_truth_and_name_every_object():
    seen_places, seen_relations = set(), set()
    for scene, texts in SAMPLES:
        assert 2 <= len(texts) <= 4
        for text in texts:
            groups, where, related = read(text)
            assert sum(number * count for (number, *_), count in groups.items()) == len(scene.objects), text
            truth = Counter()
            for group in scene.groups():
                said = next((g for g in groups if g[3] == group.shape and g[2] in (None, group.color)
                             and g[1] in (None, group.size) and g[0] == group.count), None)  # fmt: skip
                assert said is not None, text
                truth[said] += 1
            assert truth == groups, text
            assert where in (None, scene.place()), text
            seen_places.add(where)
            if related is not None:
                name, first, _ = related
                ab = sorted(scene.objects, key=lambda thing: (thing.shape, thing.color) != (
                    first[3], first[2] or thing.color))  # fmt: skip
                dx, dy = ab[1].x - ab[0].x, ab[1].y - ab[0].y
                assert {"left": dx > 0, "right": dx < 0, "above": dy > 0, "below": dy < 0}[name], text
                assert max(abs(dx), abs(dy)) >= 2 * min(abs(dx), abs(dy)), text
                seen_relations.add(name)
    assert seen_places == {None, *PLACES}
    assert seen_relations == {"left", "right", "above", "below"}


def test_the_first_caption_names_everything():
    for scene, texts in SAMPLES[:300]:
        groups, where, related = read(texts[0])
        assert all(size is not None and color is not None for _, size, color, _ in groups)
        assert where == scene.place()
        assert (related is not None) == (scene.relation() is not None)


@pytest.mark.parametrize("left_out", ATTRIBUTES)
def test_an_attribute_that_is_left_out_neither_varies_nor_is_named(left_out):
    reader = ShapesReader("train", 64, attributes=[name for name in ATTRIBUTES if name != left_out])
    samples = [reader.sample(index) for index in range(300)]
    objects = [thing for scene, _ in samples for thing in scene.objects]
    said = [read(text) for _, texts in samples for text in texts]
    groups = [group for found, _, _ in said for group in found]
    kept = {
        "color": ({thing.color for thing in objects} == {"blue"}) and all(color is None for _, _, color, _ in groups),
        "size": ({thing.size for thing in objects} == {"medium"}) and all(size is None for _, size, _, _ in groups),
        "place": {scene.place() for scene, _ in samples} == {None, "center"} and not any(where for _, where, _ in said),
        "count": all(number == 1 for number, *_ in groups),
        "relation": not any(related for _, _, related in said),
    }  # fmt: skip
    assert {name for name, constant in kept.items() if constant} == {left_out}


def test_the_most_objects_are_those_asked_for():
    for most in (1, 2, 3):
        reader = ShapesReader("train", 64, objects=most)
        assert {len(reader.sample(index)[0].objects) for index in range(200)} == set(range(1, most + 1))


def test_place_and_relation_of_points():
    assert [place(x, y) for y in (0.2, 0.5, 0.8) for x in (0.2, 0.5, 0.8)] == list(PLACES)
    assert relation((0.2, 0.5), (0.8, 0.6)) == "left"
    assert relation((0.8, 0.6), (0.2, 0.5)) == "right"
    assert relation((0.5, 0.1), (0.6, 0.9)) == "above"
    assert relation((0.6, 0.9), (0.5, 0.1)) == "below"


AREAS = {  # of shapes that a circle of radius 1 holds
    "circle": math.pi * 0.88**2, "square": 2.0, "triangle": 3 * math.sqrt(3) / 4, "diamond": 2 * 0.7,
    "star": 5 * 0.45 * math.sin(math.pi / 5), "cross": 4 * 0.6 * 0.95 - 0.6**2,
    "ring": math.pi * (0.95**2 - 0.5**2),
}  # fmt: skip


@pytest.mark.parametrize("shape", AREAS)
@pytest.mark.parametrize("side", [32, 64, 200])
def test_a_shape_covers_its_area_around_its_centre_whatever_its_angle(shape, side):
    for angle in (-10.0, 0.0, 7.0):
        thing = SceneObject(shape, "red", "large", 0.41, 0.57, 0.21, angle, (0, 0, 0))
        mask, (left, top) = coverage(thing, side)
        share = np.asarray(mask, dtype=float) / 255
        assert share.sum() / side**2 == pytest.approx(AREAS[shape] * thing.reach**2, rel=3 / side)  # of its edge
        x = (share.sum(0) * (left + np.arange(share.shape[1]) + 0.5)).sum() / share.sum() / side
        y = (share.sum(1) * (top + np.arange(share.shape[0]) + 0.5)).sum() / share.sum() / side
        assert (x, y) == pytest.approx((thing.x, thing.y), abs=0.1 / side)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_within_their_reach_and_are_upright(shape):
    """A triangle has most below its centre, a heart above; the others are nearly as high as low."""
    side, thing = 128, SceneObject(shape, "red", "large", 0.5, 0.5, 0.25, 0.0, (255, 255, 255))
    pixels = render(Scene((thing,), Background((0, 0, 0), (0, 0))), side)[:, :, 0].astype(float)
    rows, columns = np.nonzero(pixels)
    assert np.hypot(rows + 0.5 - 64, columns + 0.5 - 64).max() <= 0.25 * side + 1
    assert np.abs(pixels - pixels[:, ::-1]).mean() < 1  # left and right are the same
    above, below = pixels[:64].sum(), pixels[64:].sum()
    if shape in ("triangle", "heart"):
        assert (below > 1.2 * above) if shape == "triangle" else (above > 1.2 * below)
    else:
        assert above == pytest.approx(below, rel=0.2)


def test_pixels_are_the_colors_of_the_truth():
    for scene, _ in SAMPLES[:100]:
        pixels = render(scene, 64).astype(int)
        along = (np.arange(64) + 0.5) / 64 - 0.5
        slope = scene.background.slope
        ground = np.array(scene.background.rgb) + (slope[0] * along + slope[1] * along[:, None])[:, :, None]
        y, x = (np.arange(64) + 0.5)[:, None] / 64, (np.arange(64) + 0.5) / 64
        free = np.ones((64, 64), bool)
        for thing in scene.objects:
            free &= np.hypot(x - thing.x, y - thing.y) > thing.reach + 1.5 / 64
            inside = np.hypot(x - thing.x, y - thing.y) < 0.1 * thing.reach + 1 / 64
            expected = ground[inside].round() if thing.shape == "ring" else np.array(thing.rgb)
            assert np.abs(pixels[inside] - expected).max() <= 1
            assert np.abs(np.array(thing.rgb) - COLORS[thing.color]).max() <= 12
        assert np.abs(pixels[free] - ground[free]).max() <= 1


def test_colors_are_far_from_one_another_and_from_grey():
    colors = [np.array(rgb, float) for rgb in COLORS.values()]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(colors) for b in colors[:i]) >= 105
    assert min(np.linalg.norm(color - color.mean()) for color in colors) >= 95


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (33, 20)])
def test_encoded_pixels_come_back_exactly(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    data = encode(pixels)
    assert np.array_equal(decode(data), pixels)
    with Image.open(io.BytesIO(data)) as picture:
        picture.verify()


def test_a_record_depends_on_seed_split_and_index_alone():
    shard = ShapesReader("train", 32).open_shard(1)
    again = ShapesReader("train", 32, samples=1700).open_shard(1)
    assert [again.load(index) for index in (3, 0, 3)] == [shard.load(index) for index in (3, 0, 3)]
    assert shard.load(0).image != shard.load(1).image
    others = [ShapesReader("val", 32, val_samples=2000), ShapesReader("train", 32, seed=1)]
    assert all(other.open_shard(1).load(0).image != shard.load(0).image for other in others)


def test_training_and_validation_share_no_scene_and_no_key():
    readers = [ShapesReader(split, 16, samples=1200, val_samples=1200) for split in ("train", "val")]
    keys = [[key for n in range(one.shard_count()) for key in one.open_shard(n).keys] for one in readers]
    assert [len(found) for found in keys] == [1200, 1200]
    assert len(set(keys[0] + keys[1])) == 2400
    scenes = [{reader.sample(index)[0] for index in range(1200)} for reader in readers]
    assert not scenes[0] & scenes[1]


def test_the_fingerprint_follows_everything_that_pictures_depend_on():
    options = {"split": "train", "image_size": 32, "objects": 3, "attributes": ["color", "size"], "samples": 100}
    changes = [{}, {"split": "val"}, {"image_size": 64}, {"objects": 4}, {"attributes": ["color"]}, {"samples": 101}]
    prints = [ShapesReader(**(options | change)).fingerprint() for change in [*changes, {"seed": 1}]]
    assert len(set(prints)) == len(prints)
    assert ShapesReader(**(options | {"attributes": ["size", "color"]})).fingerprint() == prints[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "pictures"}, "'pictures': with data=shapes it can be train or val"),
        ({"objects": 5}, "data.reader.objects is 5: it can be 1 to 4"),
        ({"attributes": ["colour"]}, "'colour': did you mean 'color'"),
        ({"attributes": "x"}, "'x': it can name color, size"),
        ({"samples": 0}, "data.reader.samples is 0"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ShapesReader(**({"split": "train", "image_size": 64} | options))


def test_batches_are_pictures_of_the_truth():
    def make(split: str) -> ShapesReader:
        return ShapesReader(split, 32, samples=2500, val_samples=30)

    data = DataModule(make, "train", "val", **sized(32, crop="center", flip=0.0), batch_size=8)
    data.setup()
    reader = make("train")
    batch = next(iter(data.train_dataloader()))
    for image, caption, key in zip(batch["image"], batch["caption"], batch["key"]):
        scene, texts = reader.sample(int(key.removeprefix("train-")))
        assert torch.equal(image.permute(1, 2, 0), torch.tensor(render(scene, 32)))
        assert caption in texts
    assert sum(len(batch["key"]) for batch in data.val_dataloader()) == 30


def test_shards_are_prepared_from_shapes(tmp_path: Path):
    reader = ShapesReader("val", 16, val_samples=25)
    reader.open()
    prepare(reader, tmp_path / "out", Options(shard_samples=10))
    shards = ShardReader(str(tmp_path / "out/train"))
    shards.open()

    def by_key(records: list[Record]) -> dict[str, tuple]:
        return {record.key: (record.image, record.captions) for record in records}

    assert by_key(list(ordered(shards))) == by_key(list(ordered(reader)))
