"""Nonsense for every value of a JSON file."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEEP = json.loads("[" * 200 + "]" * 200)
VALUES = (-1, 0, 10**12, -0.5, float("nan"), float("inf"), "nonsense", "", None, True, [], {}, [1], {"a": 1}, DEEP)


def places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values, containers included."""
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from places(value, (*path, key))


def spoiled(content: Any) -> Iterator[tuple[str, Any]]:
    """Every value replaced by each kind of nonsense, or removed; with a name for each."""
    for path in places(content):
        for value in (*VALUES, "REMOVED"):
            changed = copy.deepcopy(content)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if value == "REMOVED":
                del parent[path[-1]]
            elif parent[path[-1]] == value and type(parent[path[-1]]) is type(value):
                continue
            else:
                parent[path[-1]] = copy.deepcopy(value)
            yield f"{'.'.join(map(str, path))} = {str(value)[:30]}", changed


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
