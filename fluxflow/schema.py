"""What may stand in the JSON files of a folder that others made: bounds for each key, and one sentence for the rest.

A rule takes a value and the dotted key under which it stands, and raises `Misfit` where it does not fit. Without torch.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fluxflow.errors import CheckpointError, FluxFlowError

Rule = Callable[[Any, str], None]
LARGEST_FILE = 64 * 2**20  # bytes; the largest vocabularies take about half of it
DEEPEST = 8  # levels of values about which nothing else is known
HASH = re.compile(r"[0-9a-f]{64}")


class Misfit(Exception):
    """A sentence on a value that does not fit, with its key."""


def misfit(key: str, wanted: str, value: Any) -> Misfit:
    """The sentence for a `value` that must be `wanted`."""
    shown = "null" if value is None else repr(value)
    return Misfit(f"{key} must be {wanted}, not {shown if len(shown) <= 60 else shown[:59] + '…'}")


def read_json(path: Path, rule: Rule | None = None, error: type[FluxFlowError] = CheckpointError) -> dict[str, Any]:
    """Return the object in the JSON file `path`.

    Args:
        path: the file.
        rule: what the object must fulfil.
        error: what to raise.

    Raises:
        FluxFlowError: it is missing, unreadable, or does not fulfil `rule`; the message names the file and the key.
    """
    if not path.is_file():
        raise error(f"{path} is missing.")
    if path.stat().st_size > LARGEST_FILE:
        raise error(f"{path} is larger than {LARGEST_FILE // 2**20} MB: it is no file of settings.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as fault:
        raise error(f"{path} is not valid JSON ({fault}).") from fault
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}, not an object of names and values.")
    if rule is not None:
        check(content, rule, path, error)
    return content


def check(value: Any, rule: Rule, path: Path, error: type[FluxFlowError] = CheckpointError) -> None:
    """Raise `error` with a sentence that names `path` and the key, where `value` does not fulfil `rule`."""
    try:
        rule(value, "")
    except Misfit as fault:
        raise error(f"{path}: {fault}.") from None


def whole(low: int, high: int) -> Rule:
    """An integer from `low` to `high`."""

    def rule(value: Any, key: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise misfit(key, f"a whole number from {low} to {high}", value)

    return rule


def number(low: float, high: float) -> Rule:
    """A finite number from `low` to `high`."""

    def rule(value: Any, key: str) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise misfit(key, f"a number from {low:g} to {high:g}", value)

    return rule


def text(*choices: str) -> Rule:
    """A string, one of `choices` if there are any."""

    def rule(value: Any, key: str) -> None:
        if not isinstance(value, str) or (choices and value not in choices):
            raise misfit(key, f"one of {', '.join(choices)}" if choices else "a text", value)

    return rule


def like(pattern: re.Pattern[str], wanted: str) -> Rule:
    """A string that matches `pattern`, which is `wanted` in words."""

    def rule(value: Any, key: str) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise misfit(key, wanted, value)

    return rule


def flag(value: Any, key: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise misfit(key, "true or false", value)


def nullable(inner: Rule) -> Rule:
    """Null, or what fulfils `inner`."""

    def rule(value: Any, key: str) -> None:
        if value is not None:
            inner(value, key)

    return rule


def items(inner: Rule, least: int = 0, most: int = 10**6) -> Rule:
    """A list of `least` to `most` values that fulfil `inner`."""

    def rule(value: Any, key: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise misfit(key, f"a list of {least} to {most} values", value)
        for index, item in enumerate(value):
            inner(item, f"{key}[{index}]")

    return rule


def fields(known: Mapping[str, Rule], optional: tuple[str, ...] = (), others: Rule | None = None) -> Rule:
    """An object that has the keys of `known`, but perhaps not the `optional` ones.

    Args:
        known: the rule of each key.
        optional: those of them that may be missing.
        others: the rule of all other keys; without one there may be none.
    """

    def rule(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise misfit(key, "an object of names and values", value)
        dot = f"{key}." if key else ""
        if missing := [name for name in known if name not in value and name not in optional]:
            raise Misfit(f"{dot}{missing[0]} is missing")
        for name, item in value.items():
            if (inner := known.get(name, others)) is None:
                raise Misfit(f"{dot}{name} is unknown; known are {', '.join(known)}")
            inner(item, f"{dot}{name}")

    return rule


def anything(largest: float, depth: int = DEEPEST) -> Rule:
    """Any value whose numbers are within ±`largest`, infinities that settings may mean included."""

    def rule(value: Any, key: str) -> None:
        infinite = isinstance(value, float) and value in (float("inf"), -float("inf"))
        if isinstance(value, int | float) and not infinite and not -largest <= value <= largest:
            raise misfit(key, f"a number within ±{largest:g}", value)
        if isinstance(value, list | dict):
            if depth == 0:
                raise misfit(key, f"nested less than {DEEPEST} deep", value)
            inner = anything(largest, depth - 1)
            (items(inner) if isinstance(value, list) else fields({}, others=inner))(value, key)

    return rule


SHA256 = like(HASH, "a sha256 of 64 digits")
