"""Samples that cannot be used are skipped and counted, never silently, and not without end."""

from __future__ import annotations

import logging
from collections import Counter

from ..errors import DataError

log = logging.getLogger(__name__)


class Tally:
    """Counts usable and skipped samples of one source.

    The first sample of each reason is named in a warning.

    Args:
        source: What the messages call the source.
        limit: Highest share of skipped samples that is borne, in [0, 1].
        patience: Samples to see before that limit counts.
    """

    def __init__(self, source: str, limit: float = 0.01, patience: int = 200) -> None:
        self.source = source
        self.limit = limit
        self.patience = patience
        self.usable = 0
        self.skipped: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def accept(self) -> None:
        """Count one usable sample."""
        self.usable += 1

    def skip(self, key: str, reason: str) -> None:
        """Count one skipped sample. Raises DataError once more than `limit` of the samples were skipped."""
        self.skipped[reason] += 1
        if reason not in self._first:
            self._first[reason] = key
            log.warning("%s: sample %s is skipped: %s (the first of its kind; more are only counted)",
                        self.source, key, reason)  # fmt: skip
        seen = self.usable + self.skipped.total()
        if seen >= self.patience and self.skipped.total() > self.limit * seen:
            raise DataError(f"{self.report()}. Mend or remove them, or make clean shards with fluxflow.data.prepare.")

    def end_pass(self) -> None:
        """Close a pass. Raises DataError if no sample at all was usable."""
        if self.skipped and not self.usable:
            raise DataError(f"{self.report()}. None is left to train on.")
        if self.skipped:
            log.info(self.report())

    def report(self) -> str:
        """One sentence: how many were skipped, why, and the first of each kind."""
        kinds = ", ".join(f"{n} {reason} (first: {self._first[reason]})" for reason, n in self.skipped.most_common())
        seen = self.usable + self.skipped.total()
        return f"{self.source}: {self.skipped.total()} of {seen} samples cannot be used: {kinds}"
