"""The family of errors that a user can cause and mend: the commands print their message without a traceback."""


class FluxFlowError(Exception):
    """Base of all errors whose message tells a user what is wrong and the way out."""


class ConfigError(FluxFlowError):
    """A config key or value that cannot work."""


class DataError(FluxFlowError):
    """Images or captions that are missing or unreadable."""


class CheckpointError(FluxFlowError):
    """A run, model folder or checkpoint that is missing or does not fit."""


class NotFiniteError(CheckpointError):
    """A model that is not worth writing: some of its numbers are infinite or NaN."""


class StorageError(FluxFlowError):
    """A file that cannot be written: a disk that is full or read-only, a quota, a missing permission."""


class TrainingError(FluxFlowError):
    """A run that cannot go on."""


class TextEncoderError(FluxFlowError):
    """A text model that cannot be found or reached."""


def reason(error: BaseException) -> str:
    """The first line of what another library said, in short."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 200 else f"{line[:199]}…"


def shorten(text: str, length: int = 80) -> str:
    """Return `text` on one line, its middle left out where it is longer than `length`."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length // 2]}…{line[-length // 4 :]}"
