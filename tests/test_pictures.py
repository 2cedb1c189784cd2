import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow import image_grid as pictures
from fluxflow.image_grid import CELL, Lettering, Row, _wrap, grid, read_metadata, reconstruction_grid, save_png, to_pil

RED = Image.new("RGB", (64, 64), "red")


def colours(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.asarray(picture) == colour).all(axis=-1)


def test_range_becomes_bytes() -> None:
    images = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5]).view(1, 1, 1, 5).expand(1, 3, 2, 5)
    (picture,) = to_pil(images)
    assert picture.size == (5, 2)
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    sheet = grid([[RED, RED]], ["a red square"])
    assert colours(sheet, (255, 0, 0)).sum() == 2 * (64 * 3) ** 2
    assert CELL <= 64 * 3


def test_large_pictures_keep_their_size() -> None:
    sheet = grid([[RED.resize((512, 256))]], ["a red square"])
    assert colours(sheet, (255, 0, 0)).sum() == 512 * 256


def test_a_pair_without_a_caption_shows_its_psnr_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Row] = []
    monkeypatch.setattr(pictures, "arranged", lambda rows, title: seen.extend(rows))
    image = torch.zeros(3, 8, 8)
    reconstruction_grid([image, image], [image + 0.2, image + 0.2], ["", "a square"])
    assert seen[1].notes == ["20.0 dB", "20.0 dB · a square"]


def test_a_row_of_fewer_pictures() -> None:
    full, partial = grid([[RED] * 3, [RED] * 3], ["a", "b"]), grid([[RED] * 3, [RED]], ["a", "b"])
    assert full.size == partial.size


def test_long_captions_stay_beside_their_row() -> None:
    caption = "a photo of a very long caption " * 12
    sheet = grid([[RED], [RED]], [caption, "short"])
    rows = np.flatnonzero(colours(sheet, (255, 0, 0)).any(axis=1))
    assert sheet.width < 500
    assert rows.max() - rows.min() >= 2 * 64 * 3  # nothing overlaps


def test_long_headings_stay_above_their_column() -> None:
    sheet = grid([[RED, RED]], [""], columns=["a long heading of a first column, in several lines", ""])
    red = colours(sheet, (255, 0, 0))
    columns = np.flatnonzero(red.any(axis=0))
    second = columns[np.flatnonzero(np.diff(columns) > 1)[0] + 1]
    heading = np.asarray(sheet)[: np.flatnonzero(red.any(axis=1))[0]]
    assert (heading[:, :second] < 200).any()
    assert (heading[:, second:] == 255).all()


@pytest.mark.parametrize("text", ["", "one", "some words that need several lines", "w" * 100, "ü" * 30 + " b"])
def test_no_line_is_wider_than_asked(text: str) -> None:
    letters = Lettering(16)
    wrapped = _wrap(text, 100, letters, lines=99)
    assert all(letters.width(line) <= 100 for line in wrapped.split("\n"))
    assert wrapped.replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_too_many_lines_end_in_an_ellipsis() -> None:
    letters = Lettering(16)
    lines = _wrap("w" * 100, 100, letters, lines=3).split("\n")
    assert len(lines) == 3
    assert lines[-1].endswith("w …")
    assert letters.width(lines[-1]) <= 100


def test_reconstructions_stand_below_their_originals() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(3, 3, 64, 64)
    blue = red.flip(1)
    sheet = reconstruction_grid(red, blue, ["a", "b", "c"], columns=2)
    found = [colours(sheet, colour).any(axis=1) for colour in ((255, 0, 0), (0, 0, 255))]
    order = "".join("r" * r + "b" * b for r, b in zip(*(f.tolist() for f in found), strict=True))
    assert [colour for colour, _ in itertools.groupby(order)] == ["r", "b", "r", "b"]
    assert sum(f.sum() for f in found) == 4 * 64 * 3


def test_metadata_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.png"
    save_png(RED, path, {"prompt": "ein rotes Kleid – ♥", "seed": 3, "guidance_scale": 5.0, "seeds": [1, 2]})
    assert read_metadata(path) == {
        "prompt": "ein rotes Kleid – ♥",
        "seed": "3",
        "guidance_scale": "5.0",
        "seeds": "[1, 2]",
    }
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(RED))
