"""Samples that cannot be used are skipped, counted and written down, never silently, and not without end."""

import fcntl
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fluxflow.data.sources.records import printable
from fluxflow.errors import DataError, StorageError
from fluxflow.files import append_whole, storage_errors

log = logging.getLogger(__name__)

PATIENCE = 200  # samples to see before the share of bad ones counts


@dataclass(frozen=True)
class Rejected:
    """One sample that cannot be used.

    Args:
        source: the shard or folder that holds it.
        key: its name there.
        reason: what is wrong with it, in a few words.
    """

    source: str
    key: str
    reason: str


class RejectedFile:
    """`rejected.jsonl`: each rejected sample once, however many epochs, ranks and resumed runs meet it.

    Args:
        path: the file; it comes into being with the first sample.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: set[tuple[str, str]] = set()
        self._read = 0  # bytes of the file that `_known` covers

    def add(self, samples: Iterable[Rejected]) -> None:
        """Append those that are not there yet. A lock keeps ranks apart, and lines whole."""
        new = [sample for sample in samples if (sample.source, sample.key) not in self._known]
        if not new:
            return
        try:
            with storage_errors(self.path):
                self._append(new)
        except StorageError as error:
            log.warning("%s %d rejected samples are not in it.", error, len(new))

    def _append(self, samples: list[Rejected]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._learn(file.fileno())
            new = {(sample.source, sample.key): sample for sample in reversed(samples)}
            rows = [asdict(new[known]) for known in reversed(new) if known not in self._known]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            lines = text.encode("utf-8", "backslashreplace")
            append_whole(file.fileno(), lines)
            self._known |= new.keys()
            self._read += len(lines)

    def _learn(self, descriptor: int) -> None:
        """Take note of what this or another process has written since; drop half a line of one that was killed."""
        text = os.pread(descriptor, os.fstat(descriptor).st_size - self._read, self._read)
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.ftruncate(descriptor, self._read + whole)
        for line in text[:whole].splitlines():
            row = json.loads(line)
            self._known.add((row["source"], row["key"]))
        self._read += whole


class SampleCounts:
    """Counts used and rejected samples.

    The first sample of each reason is named in a warning.

    Args:
        limit: highest share of rejected samples that is borne, in [0, 1].
        file: where rejected samples are written; None: nowhere.
    """

    def __init__(self, limit: float = 0.01, file: RejectedFile | None = None) -> None:
        self.limit = limit
        self.file = file
        self.seen = self.bad = 0  # samples read, over all epochs; a bad one counts in each of them
        self._reasons: dict[tuple[str, str], str] = {}
        self._first: dict[str, str] = {}

    def add(self, seen: int, rejected: list[Rejected]) -> None:
        """Count samples that were read, and those of them that were rejected.

        Raises:
            DataError: once more than `limit` of the samples are bad.
        """
        self.seen += seen
        self.bad += len(rejected)
        for sample in rejected:
            self._reasons.setdefault((sample.source, sample.key), sample.reason)
            if sample.reason not in self._first:
                self._first[sample.reason] = printable(f"{sample.key} of {sample.source}")
                log.warning("sample %s is skipped: %s (the first of its kind; more are only counted)",
                            self._first[sample.reason], sample.reason)  # fmt: skip
        if self.file is not None:
            self.file.add(rejected)
        if self.seen >= PATIENCE and self.bad > self.limit * self.seen:
            raise DataError(f"{self.report()}; that is above data.max_bad_fraction={self.limit:g}: mend or remove "
                            "them, make clean shards with fluxflow.data.prepare, or raise it.")  # fmt: skip

    @property
    def reasons(self) -> Counter[str]:
        """Distinct rejected samples by reason."""
        return Counter(self._reasons.values())

    def report(self) -> str:
        """One sentence: how many were rejected, why, and the first of each kind; empty if none was."""
        if not self.bad:
            return ""
        kinds = ", ".join(f"{n} {reason} (first: {self._first[reason]})" for reason, n in self.reasons.most_common())
        return f"{self.bad} of {self.seen} samples that were read cannot be used: {kinds}"

    def state(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return {"seen": self.seen, "bad": self.bad}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from counts of a checkpoint."""
        self.seen, self.bad = state["seen"], state["bad"]
