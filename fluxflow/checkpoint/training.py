"""Reading the checkpoints of a training run: tensors and plain containers only."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fluxflow.errors import CheckpointError, shorten

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
    except Exception as error:  # what is torn or altered fails in a way of its own at each place
        reason = shorten(str(error), 200) or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no checkpoint of FluxFlow ({reason}).") from error
    for key in ("state_dict", "global_step", "config"):
        if not isinstance(content, dict) or key not in content:
            raise CheckpointError(f"{path} is not a training checkpoint of FluxFlow: it has no {key}.")
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
