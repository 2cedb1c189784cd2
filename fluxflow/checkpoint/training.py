"""Reading the checkpoints of a training run: tensors and plain containers only."""

import logging
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fluxflow.errors import CheckpointError

log = logging.getLogger(__name__)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the contents of a Lightning checkpoint without running anything that it may hold; tensors are mapped.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain containers.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"There is no checkpoint {path}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, OSError, EOFError, ValueError, LookupError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is damaged or no checkpoint of FluxFlow ({reason}).") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"{path} is not a training checkpoint: it has no state_dict.")
    return content


def read_first_whole(paths: Iterable[Path]) -> tuple[Path, dict[str, Any]]:
    """Return the first checkpoint that can be read, with its contents; a warning names each that is passed over.

    Raises:
        CheckpointError: none can.
    """
    passed: CheckpointError | None = None
    for path in paths:
        try:
            content = read_checkpoint(path)
        except CheckpointError as error:
            passed = passed or error
            log.warning("Passed over: %s", error)
        else:
            return path, content
    assert passed is not None
    raise passed
