"""`metrics.csv`: one row a step, one column a metric."""

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from fluxflow.errors import StorageError
from fluxflow.files import replacing, storage_errors

Row = dict[str, Any]

log = logging.getLogger(__name__)


class MetricsFile(Logger):
    """Writes every metric of a run to one CSV file, and continues the file of a run that is resumed.

    What is logged is in the file before the call returns, so that a killed run loses none of it. Rows that such a run
    wrote after its last checkpoint are dropped when the steps are repeated. An infinite value or NaN, as of a step that
    was left out, leaves its cell empty. Rows that the disk refuses are kept, and tried again with the next.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] = []
        self._row: Row = {}
        self._pending: list[Row] = []  # rows that are not in the file as they should be
        self._stale = 0  # rows at the end of the file whose place they take
        self._end = 0  # of the rows in the file, in bytes
        self._refused = False

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
        """Write metrics to the row of a step: a new one, or the last one once more."""
        assert step is not None
        if step != self._row.get("step"):
            self._row = {"step": step}
            self._pending.append(self._row)
        elif not self._pending:
            self._pending, self._stale = [self._row], 1
        self._row |= {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._put()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Try once more what the disk refused."""
        if self._refused:
            self._put()

    def _put(self) -> None:
        try:
            with storage_errors(self.path):
                if not self._columns:
                    self._begin(self._pending[0]["step"])
                self._write_pending()
        except StorageError as error:
            if not self._refused:
                log.warning("%s Rows are kept until there is room.", error)
            self._refused = True
        else:
            self._refused = False

    def _write_pending(self) -> None:
        """Append rows, or write all rows anew: a reader never sees half of one, and a kill loses none."""
        new = list(dict.fromkeys(name for row in self._pending for name in row if name not in self._columns))
        if new or self._stale:
            rows = self._read(self._end)
            self._replace([*rows[: len(rows) - self._stale], *self._pending], self._columns + new)
        else:
            text = self._text(self._pending)
            with self.path.open("r+b") as file:
                file.seek(self._end)  # over half a row on a full disk
                file.write(text)
                file.truncate()
            self._end += len(text)
        self._pending, self._stale = [], 0

    def _begin(self, step: int) -> None:
        """Keep the rows before `step` of a file that is continued."""
        earlier = [row for row in self._read() if int(row["step"]) < step]
        self._replace(earlier, list(earlier[0]) if earlier else ["step"])

    def _read(self, end: int | None = None) -> list[Row]:
        """The rows up to a byte."""
        if not self.path.is_file():
            return []
        return list(csv.DictReader(io.StringIO(self.path.read_bytes()[:end].decode())))

    def _replace(self, rows: Sequence[Row], columns: list[str]) -> None:
        """Write the file anew, whole or not at all, with these columns."""
        text = (",".join(columns) + "\r\n").encode() + self._text(rows, columns)
        with replacing(self.path) as file:
            file.write(text)
        self._columns, self._end = columns, len(text)

    def _text(self, rows: Sequence[Row], columns: list[str] | None = None) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, columns or self._columns).writerows(rows)
        return text.getvalue().encode()
