"""What a picture shows, as pure data: the truth from which pixels and captions are made and samples are scored.

Conventions, stated here once:

- Lengths are shares of the picture's side; x goes right and y down, from the upper left corner.
- The *reach* of an object is the radius of a circle around its centre that holds it whole.
"""

from collections import Counter
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "ring")
# sRGB. No two are nearer than 105 to one another, and none is nearer than 95 to a grey.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 20, 40),
    "orange": (250, 125, 10),
    "yellow": (250, 230, 40),
    "green": (20, 170, 60),
    "cyan": (50, 210, 220),
    "blue": (30, 70, 220),
    "purple": (125, 20, 180),
    "pink": (255, 100, 180),
}
SIZES = {
    "small": (0.135, 0.15),
    "medium": (0.16, 0.175),
    "large": (0.195, 0.215),
}  # from the least to the largest reach
SIZE_BORDER = 0.17  # between small and large
PLAIN_COLOR, PLAIN_SIZE = "blue", "medium"  # of all objects, where colours or sizes do not vary
ATTRIBUTES = ("color", "size", "place", "count", "relation")
MOST_OBJECTS = 4
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
CELL_BORDERS = (0.4, 0.6)  # between the rows and between the columns of places
PLACES = tuple(f"{row} {column}".strip() or "center" for row in ROWS for column in COLUMNS)
HELD_OUT_OF = 5  # one combination of shape and colour out of so many is not trained on


@dataclass(frozen=True)
class SceneObject:
    """One object.

    Args:
        shape: one of SHAPES.
        color: the name of its colour, one of COLORS.
        size: one of SIZES.
        x, y: its centre.
        reach: see above.
        angle: how far it is turned, in degrees.
        rgb: the colour it has, near that of its name; 0 to 255.
    """

    shape: str
    color: str
    size: str
    x: float
    y: float
    reach: float
    angle: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Background:
    """A grey, a little tinted, that changes evenly over the picture.

    Args:
        rgb: in the centre, 0 to 255.
        slope: how much is added from the left to the right edge, and from the upper to the lower one.
    """

    rgb: tuple[float, float, float]
    slope: tuple[float, float]


@dataclass(frozen=True)
class Group:
    """Objects that a caption names together, "three red circles".

    Args:
        count: how many there are.
        shape, color, size: as of SceneObject.
    """

    count: int
    shape: str
    color: str
    size: str


@dataclass(frozen=True)
class Scene:
    """A picture: objects that neither touch one another nor the border.

    Args:
        objects: at most MOST_OBJECTS.
        background: what they lie on.
    """

    objects: tuple[SceneObject, ...]
    background: Background

    def groups(self) -> list[Group]:
        """Its objects by shape, colour and size, in the order of the first of each."""
        counts = Counter((thing.shape, thing.color, thing.size) for thing in self.objects)
        return [Group(count, *look) for look, count in counts.items()]

    def place(self) -> str | None:
        """Where its only object is; None where there are more."""
        return place(self.objects[0].x, self.objects[0].y) if len(self.objects) == 1 else None

    def relation(self) -> str | None:
        """How the first of two objects lies to the second, where that is beyond doubt; else None."""
        if len(self.objects) != 2 or len(self.groups()) != 2:
            return None
        a, b = self.objects
        dx, dy = abs(a.x - b.x), abs(a.y - b.y)
        return relation((a.x, a.y), (b.x, b.y)) if max(dx, dy) >= 2 * min(dx, dy) else None


def place(x: float, y: float) -> str:
    """The one of PLACES in which a point lies."""
    low, high = CELL_BORDERS
    row, column = ((value > low) + (value > high) for value in (y, x))
    return PLACES[3 * row + column]


def relation(a: tuple[float, float], b: tuple[float, float]) -> str:
    """How the point `a` lies to `b`: "left", "right", "above" or "below", by the longer of both distances."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    if abs(dx) > abs(dy):
        return "left" if dx > 0 else "right"
    return "above" if dy > 0 else "below"


def is_held_out(shape: str, color: str) -> bool:
    """Whether no training or validation picture has this combination; each shape and each colour loses one or two."""
    return (2 * SHAPES.index(shape) + list(COLORS).index(color)) % HELD_OUT_OF == 0


def combinations(held_out: bool) -> list[tuple[str, str]]:
    """All (shape, colour) that are held out, or all others."""
    return [(shape, color) for shape in SHAPES for color in COLORS if is_held_out(shape, color) == held_out]
