"""Ranges of shards, and those that would fill the memory."""

import pytest

from fluxflow.data.sources import locations
from fluxflow.data.sources.locations import expand
from fluxflow.errors import DataError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{00..02}.tar", "00.tar 01.tar 02.tar"),
        ("{8..10}.tar", "8.tar 9.tar 10.tar"),
        ("p{2.{5..6},3}.tar", "p2.5.tar p2.6.tar p3.tar"),
        ("i{,.b}.tar", "i.tar i.b.tar"),
    ],
)
def test_names_in_braces(text, names, monkeypatch):
    monkeypatch.setattr(locations, "MAX_SHARDS", 4)
    found = [shard.location for shard in expand(f"http://example.org/{text}")]
    assert found == [f"http://example.org/{name}" for name in names.split()]


@pytest.mark.parametrize(
    "text",
    [
        "{0..999999999}",
        "{a{0..9999999}{0..9999999},b}",
        "{0..99}{0..99}{0..99}",
        "{,}" * 60,
        "{9" + "{,}" * 60,
        "{0.." + "9" * 5000 + "}",
    ],
)
def test_too_many_shards_are_refused_by_name(text, monkeypatch):
    monkeypatch.setattr(locations, "MAX_SHARDS", 10_000)
    with pytest.raises(DataError, match="names more than 10,000 shards: give a smaller range"):
        expand(f"http://example.org/{text}.tar")


def test_braces_of_any_depth_are_refused():
    with pytest.raises(DataError, match=r"names more than|not balanced"):
        expand("{a," * 5000 + "}" * 5000)
