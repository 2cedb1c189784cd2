"""Objects found in pictures of shapes, against the truth of the pictures; scores against chance."""

import random
from dataclasses import replace

import pytest
import torch

from fluxflow.data.shapes.maker import lay_out
from fluxflow.data.shapes.reader import ShapesReader
from fluxflow.data.shapes.scene import COLORS, SHAPES, Background, Group, Scene, SceneObject, is_held_out
from fluxflow.errors import ConfigError
from fluxflow.metrics.shapes import CATEGORIES, EvaluationScene, detect, evaluation_scenes, score
from fluxflow.metrics.shapes import __main__ as command
from fluxflow.metrics.shapes.accuracy import DAMAGES, confusion, images_of, paired, shares
from fluxflow.metrics.shapes.detection import normalised
from fluxflow.metrics.shapes.scoring import is_right
from fluxflow.metrics.shapes.segmentation import background, connected, fits

READER = ShapesReader("val", 64)
SCENES = [READER.sample(index)[0] for index in range(100)]


@pytest.mark.parametrize("side", [64, 32])
@pytest.mark.parametrize("damage", list(DAMAGES)[:-1])
def test_objects_are_found_as_they_were_drawn(side, damage):
    found = detect(DAMAGES[damage](images_of(SCENES, side)))
    values = shares(SCENES, found)
    assert min(values.values()) >= (0.99 if damage == "as drawn" else 0.97), values
    pairs = [(a, b) for scene, objects in zip(SCENES, found) for a, b in paired(scene, objects) if b is not None]
    assert (
        max(abs(a.x - b.x) + abs(a.y - b.y) for a, b in pairs) < 1.5 / side + 0.03
    )  # a heart's centres differ by 0.02


def test_sizes_of_pictures_other_than_those_of_the_tables_work():
    for side in (48, 96):
        assert min(shares(SCENES[:40], detect(images_of(SCENES[:40], side))).values()) >= 0.98


def test_opacity_and_error_are_those_of_the_mixture():
    """p = b + a·(c − b) + e with e across c − b gives back a and |e|²."""
    generator = torch.Generator().manual_seed(0)
    ground = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1
    share = torch.rand(2, 1, 4, 4, generator=generator)
    for number, rgb in enumerate(COLORS.values()):
        toward = torch.tensor(rgb).view(1, 3, 1, 1) / 127.5 - 1 - ground
        across = torch.linalg.cross(toward, torch.ones_like(toward), dim=1) * 0.2
        opacity, error = fits(share * toward + across, ground)
        torch.testing.assert_close(opacity[:, number : number + 1], share, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(error[:, number], across.square().sum(1), atol=1e-4, rtol=1e-3)


def test_the_background_is_a_plane_whatever_touches_the_border():
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, 32), torch.linspace(-0.5, 0.5, 32), indexing="ij")
    plane = torch.stack([0.1 + 0.2 * x - 0.1 * y, -0.3 + 0.1 * x, 0.5 - 0.2 * y])
    image = plane.clone()
    image[:, :7, 3:14] = 0.9  # an object that is cut
    torch.testing.assert_close(background(image[None])[0], plane, atol=2e-3, rtol=0)


def test_connected_regions_are_those_of_a_flood_fill():
    mask = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(1)) > 0.6
    for labels, inside in zip(connected(mask), mask):
        reached = torch.zeros_like(labels)
        number = 0
        for start in inside.nonzero().tolist():
            stack, number = [start], number + 1
            while stack:
                row, column = stack.pop()
                if 0 <= row < 20 and 0 <= column < 20 and inside[row, column] and not reached[row, column]:
                    reached[row, column] = number
                    stack += [[row + a, column + b] for a in (-1, 0, 1) for b in (-1, 0, 1)]
        assert torch.equal(labels > 0, reached > 0)
        groups = {(int(a), int(b)) for a, b in zip(labels[inside], reached[inside])}
        assert len({a for a, _ in groups}) == len({b for _, b in groups}) == len(groups)


def test_normalised_objects_do_not_depend_on_place_and_size():
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    disks = torch.stack([
        ((r - torch.hypot(x - a, y - b)) + 0.5).clamp(0, 1) for a, b, r in ((20.3, 30.0, 9.0), (40.0, 35.5, 15.0))
    ])  # fmt: skip
    crops, centres, radii = normalised(disks)
    torch.testing.assert_close(centres * 64, torch.tensor([[20.3, 30.0], [40.0, 35.5]]), atol=0.02, rtol=0)
    torch.testing.assert_close(radii * 64, torch.tensor([9.0, 15.0]), atol=0.02, rtol=0)
    assert (crops[0] - crops[1]).abs().mean() < 0.02


def test_an_empty_picture_and_noise_show_nothing():
    plain = torch.full((1, 3, 64, 64), 0.2)
    grainy = 0.1 * torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    red = torch.tensor(COLORS["red"]).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 127.5 - 1
    assert detect(torch.cat([plain, grainy, red, plain * torch.nan])) == [[]] * 7


def test_what_is_no_shape_or_no_color_of_the_set_is_named_none():
    scene = Scene((SceneObject("circle", "red", "large", 0.5, 0.5, 0.21, 0.0, (240, 240, 240)),),
                  Background((20, 20, 20), (0, 0)))  # fmt: skip
    (white,) = detect(images_of([scene], 64))[0]
    assert (white.shape, white.color) == ("circle", None)
    images = torch.full((1, 3, 64, 64), -0.9)
    images[0, 0, 10:14, 8:56] = 0.8  # a long red bar
    (bar,) = detect(images)[0]
    assert (bar.shape, bar.color) == (None, "red")


@pytest.mark.parametrize("side", [64, 32])
@pytest.mark.parametrize("category", CATEGORIES)
def test_real_pictures_are_right_and_those_of_other_prompts_only_by_chance(side, category):
    scenes = evaluation_scenes(category, 60, seed=5)
    images = images_of([wanted.scene for wanted in scenes], side)
    result = score(images, scenes)
    assert list(result) == [category]
    assert result[category].correct.dtype == torch.bool
    assert result[category].correct.shape == (60,)
    assert result[category].share >= 0.99
    others = random.Random(0).sample(scenes, 60)
    shuffled = score(images, others)[category]
    by_truth = [is_right(shown.scene.objects, wanted) for shown, wanted in zip(scenes, others)]
    assert (shuffled.correct == torch.tensor(by_truth)).float().mean() >= 0.99
    assert shuffled.share <= 0.25  # one of eight shapes, and less where more is named


def test_scores_of_several_categories_keep_their_order():
    scenes = [one for pair in zip(evaluation_scenes("color", 3, 0), evaluation_scenes("count", 3, 0)) for one in pair]
    images = images_of([wanted.scene for wanted in scenes], 64)
    images[2] = 0.0  # the second of "color"
    result = score(images, scenes)
    assert result["color"].correct.tolist() == [True, False, True]
    assert result["count"].correct.tolist() == [True, True, True]
    assert result["color"].share == pytest.approx(2 / 3)


@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_fit_their_category(category):
    scenes = evaluation_scenes(category, 72, seed=1)
    assert scenes == evaluation_scenes(category, 72, seed=1) != evaluation_scenes(category, 72, seed=2)
    assert all(is_right(wanted.scene.objects, wanted) for wanted in scenes)
    held_out = [is_held_out(t.shape, t.color) for wanted in scenes for t in wanted.scene.objects]
    assert all(held_out) if category == "unseen_combinations" else not any(held_out)
    counts = {len(wanted.scene.objects) for wanted in scenes}
    assert counts == {"count": {2, 3, 4}, "attribute_binding": {2}, "relation": {2}}.get(category, {1})
    named = {
        "color": all(any(color in wanted.prompt for color in COLORS) for wanted in scenes),
        "relation": all(wanted.scene.relation() is not None for wanted in scenes)
        and all(any(word in wanted.prompt for word in ("left", "right", "above", "below")) for wanted in scenes),
        "place": len({wanted.scene.place() for wanted in scenes}) == 9 and all(" in the" in w.prompt or " on the" in
            w.prompt or " at the" in w.prompt for w in scenes),
    }  # fmt: skip
    assert all(named[name] for name in CATEGORIES[category].named)
    if category in ("single_object", "color", "unseen_combinations"):
        shapes = [wanted.scene.objects[0].shape for wanted in scenes]
        assert {shapes.count(shape) for shape in SHAPES} == {9}


def test_colors_that_are_exchanged_are_wrong():
    rng = random.Random(0)
    scene = lay_out(rng, [Group(1, "circle", "green", "small"), Group(1, "square", "blue", "small")])
    wanted = EvaluationScene("attribute_binding", "a green circle and a blue square", scene)
    a, b = scene.objects
    exchanged = [replace(a, color="blue"), replace(b, color="green")]
    assert is_right([b, a], wanted)
    assert not is_right(exchanged, wanted)
    assert not is_right([a], wanted)
    assert not is_right([a, b, replace(b, x=0.9)], wanted)


def test_a_relation_that_is_turned_round_is_wrong():
    wanted = evaluation_scenes("relation", 1, 0)[0]
    a, b = wanted.scene.objects
    turned = [replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y)]
    assert is_right([b, a], wanted)
    assert not is_right(turned, wanted)


def test_another_category_is_refused():
    with pytest.raises(ConfigError, match=r"no category 'colour'.*attribute_binding"):
        evaluation_scenes("colour", 1, 0)


def test_confusion_counts_what_is_taken_for_what():
    scene = SCENES[0]
    found = detect(images_of([scene], 64))[0]
    pairs = [*paired(scene, found), *paired(scene, [])]
    for attribute in ("shape", "color"):
        counts = confusion(pairs, attribute)
        for thing in scene.objects:
            name = getattr(thing, attribute)
            same = sum(getattr(other, attribute) == name for other in scene.objects)
            assert counts[name, name] == counts[name, "missed"] == same


def test_the_command_prints_the_tables(capsys):
    command.main(["--count", "12", "--sides", "32"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| side | pictures | found | shape | color | size | count | place | relation |"
    assert [line.split(" | ")[1] for line in lines[2:9]] == list(DAMAGES)
    objects = sum(len(READER.sample(index)[0].objects) for index in range(12))
    tables = "\n".join(lines).split("\n\n")[1:]
    assert len(tables) == 4
    for table in tables:
        assert (
            sum(int(cell) for line in table.splitlines()[2:] for cell in line.split("|") if cell.strip().isdigit())
            == objects
        )
