"""Names in braces, as a shell writes them: {00..41}, {a..e}, {0..8..2}, {a,b}, one within another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import ascii_letters

RANGE = re.compile(r"(?:(-?\d{1,18})\.\.(-?\d{1,18})|([A-Za-z])\.\.([A-Za-z]))(?:\.\.-?(\d{1,18}))?")


def expand_braces(text: str) -> Iterator[str]:
    """The names that a text stands for, one at a time, however many there are.

    Braces that hold neither a range nor a comma stand for themselves.

    Raises:
        ValueError: If the braces are not balanced.
    """
    start = text.find("{")
    if "}" in (text if start < 0 else text[:start]):
        raise ValueError("} without {")
    if start < 0:
        yield text
        return
    end = _closing(text, start)
    tail = text[end + 1 :]
    for inner in _alternatives(text[start + 1 : end]):
        for rest in expand_braces(tail) if {"{", "}"} & set(tail) else [tail]:
            yield text[:start] + inner + rest


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise ValueError("{ without }")


def _alternatives(inner: str) -> Iterator[str]:
    """What stands between two braces, in turn."""
    if found := RANGE.fullmatch(inner):
        first, last, letter, last_letter, given = found.groups()
        step = int(given or 1) or 1
        yield from _numbers(first, last, step) if first else _letters(letter, last_letter, step)
        return
    parts, depth = [""], 0
    for letter in inner:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if len(parts) == 1:
        yield from (f"{{{name}}}" for name in expand_braces(inner))
    else:
        for part in parts:
            yield from expand_braces(part)


def _numbers(first: str, last: str, step: int) -> Iterator[str]:
    """Both ends included, all as wide as the wider end where one begins with a zero."""
    padded = any(end.lstrip("-").startswith("0") and end.lstrip("-") != "0" for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    yield from (f"{number:0{width}d}" for number in _between(int(first), int(last), step))


def _letters(first: str, last: str, step: int) -> Iterator[str]:
    places = _between(ascii_letters.index(first), ascii_letters.index(last), step)
    yield from (ascii_letters[place] for place in places)


def _between(first: int, last: int, step: int) -> range:
    """In either direction."""
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
