"""How a training stream goes on from a checkpoint, there as here or with something changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RESHAPING = ("ranks", "workers", "block_pieces", "val_fraction")  # what a cursor's integers depend on


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What a resumed run asks for otherwise than the one that wrote the checkpoint, in words."""
    return [f"{name} was {there.get(name)} and is {here[name]}" for name in here if there.get(name) != here[name]]


def changed_sources(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Names of the sources whose fingerprints differ, that are new or that are gone."""
    return sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))


def loader_states(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The state of each rank's loader, from that of a checkpoint.

    With the same ranks, workers and blocks, every worker goes on where it was. With others, all of them go on at the
    mean progress of the pass, which leaves out and repeats a few samples, and samples that wait for a batch are
    dealt out anew. A source that is no longer the same begins a new pass.

    Args:
        saved: {"settings", "sources": fingerprints, "ranks": a loader's state each}, see loader.Loader.
        settings: Those of this run, with "sources".
    """
    ranks: list[dict[str, Any]] = list(saved["ranks"])
    if any(saved["settings"].get(name) != settings["settings"][name] for name in RESHAPING):
        ranks = _reshaped(ranks, settings["settings"]["ranks"], settings["settings"]["workers"])
    changed = changed_sources(saved["sources"], settings["sources"])
    return [rank | {"workers": [_without(state, changed) for state in rank["workers"]]} for rank in ranks]


def _reshaped(saved: Sequence[dict[str, Any]], ranks: int, workers: int) -> list[dict[str, Any]]:
    old = [state for rank in saved for state in rank["workers"]]
    states, places = [state for state in old if state], ranks * workers  # those that have yielded nothing are empty
    progress = {name: sum(state["cursors"][name]["progress"] for state in states) / len(old)
                for state in states for name in state["cursors"]}  # fmt: skip
    pending = [reference for state in states for reference in state["pending"]]
    draws = sum(state["draws"] for state in states) // places
    new = [{"draws": draws, "cursors": {name: {"progress": x} for name, x in progress.items()},
            "pending": pending[place::places]} for place in range(places)]  # fmt: skip
    tally = {name: sum(rank["tally"][name] for rank in saved) // ranks for name in ("seen", "bad")}
    return [{"turn": 0, "workers": new[rank * workers : (rank + 1) * workers], "tally": tally} for rank in range(ranks)]


def _without(state: dict[str, Any], changed: Sequence[str]) -> dict[str, Any]:
    """A worker's state whose changed sources begin a new pass."""
    if not state or not changed:
        return state
    cursors = {name: {"progress": float(int(cursor["progress"]) + 1)} if name in changed else cursor
               for name, cursor in state["cursors"].items()}  # fmt: skip
    return state | {"cursors": cursors, "pending": [r for r in state["pending"] if r[0] not in changed]}
