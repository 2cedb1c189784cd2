import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from fluxflow import image_grid as lettering
from fluxflow.image_grid import ABSENT, SHIPPED, Lettering, font_for


def drawn(text: str) -> np.ndarray:
    paper = Image.new("RGB", (160, 40), "white")
    Lettering(16).draw(ImageDraw.Draw(paper), 4, 4, text, (0, 0, 0))
    return np.asarray(paper)


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    font_for.cache_clear()
    lettering._missed.clear()


@pytest.mark.parametrize("text", ["é", "ü", "ß", "ñ", "ş", "Ж", "я", "α", "Ω", "ł", "€", "“", "♥", "→", "…", "·"])
def test_letters_of_europe_are_letters(text: str) -> None:
    assert font_for(text) == SHIPPED
    box = drawn(ABSENT)
    assert (drawn(text) != 255).any()
    assert (drawn(text) != box).any()


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert np.array_equal(drawn("u\u0308ber"), drawn("über"))


def test_a_font_of_the_machine_steps_in(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Pillow's own stands for the shipped one: what it lacks comes from the other."""
    other = Path("other.ttf")
    little, large = ImageFont.load_default(16), ImageFont.truetype(str(SHIPPED), 16)
    monkeypatch.setattr(lettering, "_has", lambda path, character: path == other or character.isascii())
    monkeypatch.setattr(lettering, "_font", lambda path, size: large if path == other else little)
    monkeypatch.setattr(lettering, "_of_the_machine", lambda character: other)
    assert [part for part, _ in Lettering(16)._parts("rot Ж中 blau")] == ["rot ", "Ж中", " blau"]
    assert Lettering(16).width("aЖ") == little.getlength("a") + large.getlength("Ж")
    assert not caplog.records


@pytest.mark.parametrize("command", [None, "false"])
def test_what_no_font_has_is_said_once(
    command: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lettering.shutil, "which", lambda name: command)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            drawn("中 a 文\n中")
    assert [record.getMessage() for record in caplog.records] == [
        "No font for 中 文 was found: image grids show boxes. Install one, such as Noto Sans."
    ]


def test_the_font_lies_in_the_package_with_its_licence() -> None:
    assert SHIPPED.stat().st_size < 800_000
    assert "Bitstream" in (SHIPPED.parent / "LICENSE").read_text()
