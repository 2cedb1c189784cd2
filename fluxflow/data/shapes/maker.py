"""Scenes by chance: which objects there are, and where they lie."""

import math
import random
from collections.abc import Collection, Sequence

from fluxflow.data.shapes.scene import (
    COLORS,
    COLUMNS,
    PLACES,
    PLAIN_COLOR,
    PLAIN_SIZE,
    ROWS,
    SHAPES,
    SIZES,
    Background,
    Group,
    Scene,
    SceneObject,
    combinations,
)

MARGIN = 0.03  # least distance of an object from the border
GAP = 0.05  # least distance of two objects
DRIFT = 0.08  # how far from its border or from the middle an object may lie in its place
TURN = 10.0  # degrees to either side
TINT, SHADE = 12, 10  # largest change of a colour's channels, and of the background's over the picture, of 255
GREYS = (25, 230)
FEW = 2  # up to so many objects may be large
TRIES = 200  # positions of one object before all are laid out anew


def make_scene(rng: random.Random, objects: int, attributes: Collection[str]) -> Scene:
    """One scene of the set, without held-out combinations of shape and colour.

    Args:
        rng: what everything is drawn from.
        objects: the most objects, up to MOST_OBJECTS; each number is equally frequent.
        attributes: what varies, of ATTRIBUTES. Without "color" or "size" all objects have the same. Without "count"
            no two are alike. Without "place" a single object lies in the centre. With "relation" one of two
            different objects is clearly left of or above the other.
    """
    number = rng.randint(1, objects)
    group_count = rng.randint(1, number) if "count" in attributes else number
    ends = [*sorted(rng.sample(range(1, number), group_count - 1)), number]
    counts = [end - start for start, end in zip([0, *ends], ends)]
    looks = combinations(held_out=False) if "color" in attributes else [(shape, PLAIN_COLOR) for shape in SHAPES]
    groups = [
        Group(count, shape, color, draw_size(rng, number) if "size" in attributes else PLAIN_SIZE)
        for count, (shape, color) in zip(counts, rng.sample(looks, group_count))
    ]
    if number == 1:
        return lay_out(rng, groups, rng.choice(PLACES) if "place" in attributes else "center")
    return (lay_out_related if "relation" in attributes and number == group_count == 2 else lay_out)(rng, groups)


def draw_size(rng: random.Random, objects: int) -> str:
    """Small or large, if there is room; three objects and more are small."""
    return rng.choice(("small", "large")) if objects <= FEW else "small"


def lay_out(rng: random.Random, groups: Sequence[Group], place: str | None = None) -> Scene:
    """A scene with these objects.

    Args:
        rng: what positions, tints and background are drawn from.
        groups: what it shows.
        place: where its only object lies, of PLACES; None: anywhere.
    """
    things = [group for group in groups for _ in range(group.count)]
    reaches = [rng.uniform(*SIZES[group.size]) for group in things]
    centres = None
    while centres is None:
        centres = [_in_place(rng, place, reaches[0])] if place is not None else _apart(rng, reaches)
    objects = tuple(
        SceneObject(
            group.shape, group.color, group.size, x, y, reach, rng.uniform(-TURN, TURN), _tinted(rng, group.color)
        )
        for group, reach, (x, y) in zip(things, reaches, centres)
    )
    grey = rng.uniform(*GREYS)
    tinted = (grey + rng.uniform(-SHADE, SHADE), grey + rng.uniform(-SHADE, SHADE), grey + rng.uniform(-SHADE, SHADE))
    return Scene(objects, Background(tinted, (rng.uniform(-SHADE, SHADE), rng.uniform(-SHADE, SHADE))))


def lay_out_related(rng: random.Random, pair: Sequence[Group]) -> Scene:
    """A scene with these two objects, one of them clearly left of or above the other."""
    while (scene := lay_out(rng, pair)).relation() is None:
        pass
    return scene


def _in_place(rng: random.Random, place: str, reach: float) -> tuple[float, float]:
    row, column = divmod(PLACES.index(place), 3)
    y, x = (_along(rng, bool(name), index == 2, reach) for name, index in ((ROWS[row], row), (COLUMNS[column], column)))
    return x, y


def _along(rng: random.Random, aside: bool, far: bool, reach: float) -> float:
    """One coordinate: near the lower or the upper border, or in the middle."""
    if not aside:
        return 0.5 + rng.uniform(-DRIFT, DRIFT)
    near = MARGIN + reach + rng.uniform(0, DRIFT)
    return 1 - near if far else near


def _apart(rng: random.Random, reaches: Sequence[float]) -> list[tuple[float, float]] | None:
    """Centres by chance, one object after another; None where one finds no room."""
    centres: list[tuple[float, float]] = []
    for reach in reaches:
        edge = MARGIN + reach
        for _ in range(TRIES):
            x, y = rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge)
            if all(math.hypot(x - a, y - b) >= reach + other + GAP for (a, b), other in zip(centres, reaches)):
                centres.append((x, y))
                break
        else:
            return None
    return centres


def _tinted(rng: random.Random, color: str) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, level + rng.randint(-TINT, TINT))) for level in COLORS[color])
    return red, green, blue
