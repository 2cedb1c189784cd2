"""The parts of a model folder that other libraries build, without running code of theirs: tokenizer and scheduler."""

import copy
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import PreTrainedTokenizerBase

from fluxflow.diffusion.sampler import SCHEDULERS, Sampling, sample, unfitness
from fluxflow.errors import CheckpointError, TextEncoderError, reason
from fluxflow.formats import SCHEDULER
from fluxflow.models.text_encoder import load_tokenizer
from fluxflow.schema import read_json

SCHEDULER_CONFIG = "scheduler_config.json"


def load_scheduler(folder: Path) -> Any:
    """Return the scheduler whose class and settings lie in `folder`.

    Raises:
        CheckpointError: a class that cannot draw with our flows, or settings that it cannot use.
    """
    path = folder / SCHEDULER_CONFIG
    config = read_json(path, SCHEDULER)
    name = config["_class_name"]
    if name not in SCHEDULERS:
        raise CheckpointError(
            f"{path} names the scheduler {name}, which cannot draw: known are {', '.join(SCHEDULERS)}."
        )
    scheduler = None
    try:
        scheduler = getattr(diffusers, name).from_config(config)
        fault = unfitness(scheduler) or _trial(copy.deepcopy(scheduler))
    except Exception as error:  # whatever diffusers makes of settings that contradict each other
        fault = reason(error)
    if fault:
        raise CheckpointError(f"{path} describes no scheduler that can be used ({fault}).")
    return scheduler


def _trial(scheduler: Any) -> str | None:
    """Draw of nothing, in four steps; the settings can be used if numbers come out."""
    nothing = torch.zeros(1, 1)
    state = Sampling(torch.ones(1, 1, 2), nothing, nothing, 1.0)
    flow = sample(lambda packed, *_: torch.zeros_like(packed), scheduler, state, torch.zeros(1, 1, 2), (1, 1), 4)
    for _ in flow:
        pass
    return None if state.tokens.isfinite().all() else "its steps give no numbers"


def load_words(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `folder`.

    Raises:
        CheckpointError: there is none that can be used.
    """
    try:
        return load_tokenizer(folder)
    except TextEncoderError as error:
        raise CheckpointError(f"{error}.") from error
