"""Steps whose gradient is not finite, and how often a step waits for the device."""

import copy
import csv
import logging
import math
import re
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import SGD, AdamW
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fluxflow.errors import TrainingError
from fluxflow.training import EMA, MetricsFile
from fluxflow.training.callbacks.progress_bar import Progress
from fluxflow.training.callbacks.throughput import Throughput
from fluxflow.training.gradients import PATIENCE, clip
from tests.training import stages
from tests.training.test_resume import assert_same

FUSED = partial(AdamW, lr=1e-3, fused=True)
WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
READS = {"tolist", "cpu", "numpy"}  # on a CPU these need no operation that a dispatch mode would see


class Waits(TorchDispatchMode, Callback):
    """Notes where a step asks for the value of a tensor, which on a GPU waits for all that is queued."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[str]] = []
        self.functions = _Reads(self)

    def on_train_batch_start(self, *_: Any) -> None:
        """From here to the next batch, all that happens at the end of this one included."""
        if self.steps:
            self.on_train_end()
        self.steps.append([])
        self.__enter__()
        self.functions.__enter__()

    def on_train_end(self, *_: Any) -> None:
        self.functions.__exit__(None, None, None)
        self.__exit__(None, None, None)

    def note(self) -> None:
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack() if f.filename != __file__]
        self.steps[-1].append(" < ".join(frames[:-6:-1]))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.name.removeprefix("aten::") in WAITS:
            self.note()
        return function(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in READS:
            self.waits.note()
        return function(*args, **(kwargs or {}))


def built(stage: str, make: Callable[..., Any] = FUSED, **options: Any) -> Any:
    torch.manual_seed(0)
    both = {"optimizer": make} | ({"discriminator_optimizer": make, "gan_start": 0} if stage == "vae" else {})
    return stages.STAGES[stage](**(both | options))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_step_waits_once(stage: str, accumulate: int, tmp_path: Path) -> None:
    module = built(stage, log_every=4)
    options: dict[str, Any] = {"logger": MetricsFile(tmp_path / "metrics.csv"), "log_every_n_steps": 4}
    if module.automatic_optimization:
        options["accumulate_grad_batches"] = accumulate
    else:
        module.accumulate = accumulate
        options["log_every_n_steps"] = 4 * accumulate
    waits = Waits()
    around = [EMA(), Progress(every_seconds=0, log_every=4, terminal=True), Throughput(every=4)]
    stages.fit(module, *around, waits, steps=8, **options)
    for batch, found in enumerate(waits.steps):
        step, last = batch // accumulate, (batch + 1) % accumulate == 0
        if step > 0 and (step + 1) % 4 and step != 4:  # the captions of the first are new; the 4th and 8th are logged
            assert len(found) == last, found


def spoil(module: Any, steps: list[int], part: str) -> None:
    """Makes the gradient of some batches NaN for one of the networks."""
    calls = iter(range(10**6))
    network = {"flow": "flow_processor", "generator": "latent_space", "discriminator": "discriminator"}[part]

    parameter = next(p for p in getattr(module, network).parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * (float("nan") if next(calls) in steps else 1.0))


@pytest.mark.parametrize("make", [FUSED, partial(SGD, lr=1e-3, momentum=0.9)])
@pytest.mark.parametrize(("stage", "part"), [("flow", "flow"), ("vae", "generator"), ("vae", "discriminator")])
def test_a_step_without_a_finite_gradient_changes_nothing(
    stage: str, part: str, make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    module = built(stage, make)
    spoil(module, [1], part)
    history = []

    class History(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            history.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})

    with caplog.at_level(logging.WARNING, "fluxflow"):
        trainer = stages.fit(module, History(), steps=3)
    assert trainer.global_step == 3
    mine = {"generator": "latent_space", "discriminator": "discriminator", "flow": ""}[part]
    names = [name for name in history[0] if name.startswith(mine)]
    assert names
    assert all(torch.equal(history[0][name], history[1][name]) for name in names)
    assert not all(torch.equal(history[1][name], history[2][name]) for name in names)
    assert all(weight.isfinite().all() for weight in history[-1].values())
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(rf"step 1 of the {part} is left out: loss -?[\d.]+, gradient norm nan", line)


def state_of(trainer: Trainer, ema: EMA) -> dict[str, dict[str, Any]]:
    """All that a checkpoint says of each network, buffers included, of its optimizer and its average; by network."""
    module: Any = trainer.lightning_module
    names = ["generator", "discriminator"][: len(trainer.optimizers)] if hasattr(module, "discriminator") else ["flow"]
    networks = {"generator": "latent_space", "discriminator": "discriminator", "flow": "flow_processor"}
    return {
        name: copy.deepcopy(
            {"network": getattr(module, networks[name]).state_dict(), "optimizer": optimizer.state_dict()["state"]}
            | ({"average": ema.state_dict()} if name != "discriminator" else {})
        )
        for name, optimizer in zip(names, trainer.optimizers, strict=True)
    }


@pytest.mark.parametrize("make", [FUSED, partial(SGD, lr=1e-3, momentum=0.9)])
@pytest.mark.parametrize(("stage", "part"), [("flow", "flow"), ("vae", "generator"), ("vae", "discriminator")])
def test_a_step_that_is_left_out_changes_no_state(
    stage: str, part: str, make: Callable[..., Any], tmp_path: Path
) -> None:
    """Buffers, averages and optimizers included; the other network of the step is trained."""
    module, ema, log = built(stage, make), EMA(), MetricsFile(tmp_path / "metrics.csv")
    spoil(module, [2], part)
    history: list[dict[str, dict[str, Any]]] = []

    class History(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            history.append(state_of(trainer, ema))

    stages.fit(module, ema, History(), steps=4, logger=log, log_every_n_steps=1)
    _, before, after, later = history
    assert_same(after[part], before[part], part)
    for other in set(before) - {part}:
        with pytest.raises(AssertionError):
            assert_same(after[other]["optimizer"], before[other]["optimizer"])
    with pytest.raises(AssertionError):
        assert_same(later[part], after[part])
    if stage == "vae":  # its power iterations follow weights that nobody has trained
        vectors = [name for name in module.discriminator.state_dict() if name.endswith(("._u", "._v"))]
        assert vectors
        states = [{name: state["discriminator"]["network"][name] for name in vectors} for state in (before, after)]
        assert_same(*states)
    rows = list(csv.DictReader(log.path.open()))
    assert len(rows) == 4
    values = [value for row in rows for value in row.values() if value]
    assert all(math.isfinite(float(value)) for value in values)
    norm = {"generator": "train/grad_norm", "discriminator": "train/grad_norm_discriminator", "flow": "train/grad_norm"}
    assert [bool(row[norm[part]]) for row in rows] == [True, True, False, True]


def test_a_run_without_finite_gradients_ends() -> None:
    module = built("flow")
    spoil(module, list(range(2, 100)), "flow")
    before = stages.weights(module)
    with pytest.raises(TrainingError, match=rf"{PATIENCE} steps in a row up to step {PATIENCE + 1} .*flow \(loss"):
        stages.fit(module, steps=100)
    after = stages.weights(module)
    assert all(after[name].isfinite().all() for name in before)


@pytest.mark.parametrize("make", [FUSED, partial(SGD, lr=1.0)])
def test_clipping_bounds_the_norm(make: Callable[..., Any]) -> None:
    weights = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    optimizer = make(weights)
    for weight in weights:
        weight.grad = torch.full_like(weight, 3.0)
    assert clip(optimizer, 1.0).item() == pytest.approx(3 * 7**0.5)
    optimizer.step()
    clipped = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    assert clipped.norm().item() == pytest.approx(1.0, rel=1e-4)
