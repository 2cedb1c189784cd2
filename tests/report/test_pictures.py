import base64
import io
import itertools
from pathlib import Path

import pytest
from PIL import Image

from fluxflow.report.pictures import LONGEST, embed, encode, spread


@pytest.mark.parametrize(("count", "keep"), [(0, 3), (1, 1), (5, 9), (10, 1), (10, 0), (100, 7), (41, 40)])
def test_what_is_kept_is_spread_evenly_from_the_first_to_the_last(count: int, keep: int) -> None:
    kept = spread(count, keep)
    assert len(kept) == min(count, keep)
    assert kept == sorted(set(kept))
    if len(kept) > 1:
        gaps = {b - a for a, b in itertools.pairwise(kept)}
        assert (kept[0], kept[-1]) == (0, count - 1)
        assert max(gaps) - min(gaps) <= 1
    elif kept:
        assert kept == [count - 1]


def noise(folder: Path, count: int, size: tuple[int, int] = (200, 100)) -> list[tuple[str, Path]]:
    files = [(f"step {number}", folder / f"{number}.png") for number in range(count)]
    for _, file in files:
        Image.effect_noise(size, 90).save(file)
    return files


def test_images_are_thinned_out_to_the_budget(tmp_path: Path) -> None:
    files = noise(tmp_path, 20)
    one = len(encode(*files[0]).uri)
    few = embed(files, budget=int(5.5 * one))
    assert 3 <= len(few) <= 6
    assert sum(len(picture.uri) for picture in few) <= 5.5 * one
    assert (few[0].title, few[-1].title) == ("step 0", "step 19")
    assert len(embed(files)) == 20
    assert len(embed(files, most=7)) == 7
    assert embed(files, budget=10) == []
    assert embed([]) == []


def test_what_is_embedded_is_the_image(tmp_path: Path) -> None:
    Image.new("RGBA", (4000, 1000), (200, 30, 60, 255)).save(tmp_path / "a.png")
    picture = encode("a", tmp_path / "a.png")
    assert picture is not None
    head, data = picture.uri.split(",")
    assert head == "data:image/webp;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (picture.width, picture.height) == (LONGEST, LONGEST // 4)
    assert image.getpixel((5, 5)) == pytest.approx((200, 30, 60), abs=4)


def test_damaged_images_are_left_out(tmp_path: Path) -> None:
    files = noise(tmp_path, 2)
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:300])
    files.append(("none", tmp_path / "none.png"))
    assert [picture.title for picture in embed(files)] == ["step 1"]
