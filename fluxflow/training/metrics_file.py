"""`metrics.csv`: one row a step, one column a metric."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsFile(Logger):
    """Writes every metric of a run to one CSV file, and continues the file of a run that is resumed.

    What is logged is in the file before the call returns, so that a killed run loses none of it. Rows that such a run
    wrote after its last checkpoint are dropped when the steps are repeated. An infinite value or NaN, as of a step that
    was left out, leaves its cell empty.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] = []
        self._row: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hyperparameters are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write metrics to the row of a step: a new one, or the last one again, with the file around it."""
        assert step is not None
        if not self._columns:
            self._begin(step)
        again = step == self._row.get("step")
        self._row = self._row if again else {"step": step}
        self._row |= {name: value for name, value in metrics.items() if math.isfinite(value)}
        new = [name for name in self._row if name not in self._columns]
        if again or new:
            rows = self._read()
            self._columns += new
            self._write([*rows[: len(rows) - again], self._row])
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(self._row)

    def _begin(self, step: int) -> None:
        """Keep the rows before `step` of a file that is continued."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        earlier = [row for row in self._read() if int(row["step"]) < step]
        self._columns = list(earlier[0]) if earlier else ["step"]
        self._write(earlier)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        draft = self.path.with_suffix(".part")  # a reader never sees half a file
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        draft.replace(self.path)
