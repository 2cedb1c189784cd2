import pytest

from fluxflow.data.images.captions import SIDES_AND_WRITING, CaptionRule, FlipGuard
from fluxflow.errors import ConfigError

CAPTIONS = ("a dress", "a long red dress on a hanger", "red")


def test_rules():
    assert CaptionRule()(CAPTIONS, 0.9) == "a dress"
    assert CaptionRule("first")(CAPTIONS, 0.9) == "a dress"
    assert CaptionRule("longest")(CAPTIONS, 0.0) == "a long red dress on a hanger"
    random = CaptionRule("random")
    assert [random(CAPTIONS, draw) for draw in (0.0, 0.33, 0.34, 0.66, 0.67, 1 - 2**-53)] == [
        CAPTIONS[n] for n in (0, 0, 1, 1, 2, 2)
    ]


def test_prefix_stands_before_every_caption():
    assert CaptionRule("first", "a photo of")(CAPTIONS, 0.0) == "a photo of a dress"


@pytest.mark.parametrize(
    "caption",
    ["a hand on the left", "Turn RIGHT!", "the word 'yes'", "a stop sign.", "left-handed", "numbers 1 to 9", "logo"],
)
def test_sides_and_writing_forbid_a_flip(caption):
    guard = FlipGuard()
    assert not guard.allows([caption])
    assert not guard.allows(["a dress", caption])


@pytest.mark.parametrize(
    "caption", ["a bright dress", "a cleft", "designer shoes", "swordfish", "context", "clockwork", "", "lefts"]
)
def test_the_words_count_as_wholes_alone(caption):
    assert FlipGuard().allows([caption])


def test_other_words_replace_the_list():
    guard = FlipGuard(["c++", "heart"])
    assert guard.allows(["left"])
    assert not guard.allows(["a heart"])
    assert not guard.allows(["C++ code"])
    assert FlipGuard(None).allows(["left"])
    assert FlipGuard([]).allows(["left"])


def test_every_word_of_the_list_is_there_once_and_guards():
    assert len(set(SIDES_AND_WRITING)) == len(SIDES_AND_WRITING)
    assert not any(FlipGuard().allows([f"some {word}, then"]) for word in SIDES_AND_WRITING)


def test_what_cannot_work_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"data\.transform\.caption_rule is 'last': it can be random, first, longest"):
        CaptionRule("last")
    with pytest.raises(ConfigError, match=r"data\.transform\.flip_guard is 'left': .* a list of words"):
        FlipGuard("left")
