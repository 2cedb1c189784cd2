"""The page about a run, written when training ends."""

import logging
import time
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from fluxflow.errors import reason
from fluxflow.report.page import write_report
from fluxflow.runs import shown

log = logging.getLogger(__name__)


class Report(Callback):
    """Writes `report.html` when training ends, by itself, by a signal or by an error; what fails there is only logged.

    Args:
        run_dir: the folder of the run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self._began = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = True  # a run that was killed after its last step trains no more when it is resumed

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._write(trainer)  # after the data module, which logs what it rejected

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Exception):
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if not (self._began and trainer.is_global_zero):
            return
        start = time.monotonic()
        try:
            path = write_report([self.run_dir])
        except Exception as error:  # whatever it is, the run is done and its results are saved
            log.warning("The report could not be written (%s); python -m fluxflow.report %s tries again.",
                        reason(error), self.run_dir)  # fmt: skip
        else:
            log.info("Report: %s (%.1f s)", shown(path), time.monotonic() - start)
