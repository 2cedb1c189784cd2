"""`run.log` on a disk that may be full."""

import logging
import sys


class RunLog(logging.FileHandler):
    """Writes to a file; that the disk refuses it is said once on stderr, and the run goes on."""

    refused = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # of the first line, with which the file is opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say what is wrong, where it is the disk."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.refused:
            self.refused = True
            print(f"{self.baseFilename} cannot be written: {error.strerror}. It lacks lines.", file=sys.stderr)
