import itertools

import pytest

from fluxflow.data import locations
from fluxflow.data.braces import expand_braces
from fluxflow.data.locations import expand
from fluxflow.errors import DataError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", "a"),
        ("{00..02}.tar", "00.tar 01.tar 02.tar"),
        ("{8..10}", "8 9 10"),
        ("{07..10}", "07 08 09 10"),
        ("{2..-1}", "2 1 0 -1"),
        ("{0..10..4}", "0 4 8"),
        ("{a..e..2}{x,y}", "ax ay cx cy ex ey"),
        ("p{2.{5..6},3}", "p2.5 p2.6 p3"),
        ("i{,.b}", "i i.b"),
        ("{x}{}", "{x}{}"),
        ("{a{1,2}}", "{a1} {a2}"),
    ],
)
def test_names_in_braces(text, names):
    assert list(expand_braces(text)) == names.split(" ")


@pytest.mark.parametrize("text", ["{a", "a}", "{a{b}", "{1..2}}", "}{1,2}"])
def test_unbalanced_braces(text):
    with pytest.raises(ValueError, match="without"):
        list(expand_braces(text))


def test_names_come_one_at_a_time():
    assert list(itertools.islice(expand_braces("x{0..999999999999}{0..9999999999}"), 2)) == ["x00", "x01"]


@pytest.mark.parametrize(
    "text", ["{0..999999999}", "{a{0..9999999}{0..9999999},b}", "{0..99}{0..99}{0..99}", "{,}" * 60]
)
def test_too_many_shards_are_refused_by_name(text, monkeypatch):
    monkeypatch.setattr(locations, "MAX_SHARDS", 10_000)
    with pytest.raises(DataError, match="names more than 10,000 shards: give a smaller range"):
        expand(f"http://example.org/{text}.tar")


def test_braces_of_any_depth_are_refused():
    with pytest.raises(DataError, match="not balanced"):
        expand("{a," * 5000 + "}" * 5000)
