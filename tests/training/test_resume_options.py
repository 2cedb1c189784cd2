"""What a resumed run is asked for takes effect, and what it is not asked for is as it was."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch.optim import Adam, AdamW

from fluxflow.errors import CheckpointError
from fluxflow.training import relative_adamw
from fluxflow.training.gradients import count_batches
from fluxflow.training.optimizers import keep_options, scale_rate
from tests.training import stages

NAMES = {"vae": ("optimizer", "discriminator_optimizer"), "flow": ("optimizer",)}


def saved(stage: str, folder: Path, steps: int = 2, **options: Any) -> Path:
    """A checkpoint after some steps."""
    torch.manual_seed(0)
    trainer = stages.fit(stages.STAGES[stage](**options), steps=steps)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def resumed(stage: str, checkpoint: Path, steps: int = 3, **options: Any) -> LightningModule:
    torch.manual_seed(0)
    module = stages.STAGES[stage](**options)
    stages.fit(module, steps=steps, checkpoint=checkpoint)
    return module


@pytest.mark.parametrize("stage", stages.STAGES)
def test_rates_betas_and_decay_of_a_resumed_run_take_effect(stage: str, tmp_path: Path) -> None:
    make = partial(AdamW, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    last = saved(stage, tmp_path, **dict.fromkeys(NAMES[stage], make))
    other = partial(AdamW, lr=1e-6, betas=(0.5, 0.9), weight_decay=0.2, eps=1e-5)
    module = resumed(stage, last, **dict.fromkeys(NAMES[stage], other))
    for optimizer in module.trainer.optimizers:
        for group in optimizer.param_groups:
            assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.5, 0.9), 0.2, 1e-5)
            assert group["initial_lr"] == pytest.approx(1e-6)
            assert group["lr"] == pytest.approx(1e-6)
        assert {int(state["step"]) for state in optimizer.state.values()} <= {2, 3}, "its running means are kept"


def test_a_smaller_rate_moves_the_weights_less(tmp_path: Path) -> None:
    last = saved("flow", tmp_path, optimizer=partial(Adam, lr=1e-3))
    before = torch.load(last, weights_only=True)["state_dict"]

    def moved(rate: float) -> float:
        module = resumed("flow", last, optimizer=partial(Adam, lr=rate))
        after = module.state_dict()
        return max((after[name] - before[name]).abs().max().item() for name in before)

    assert moved(1e-3) > 1e-4
    assert moved(1e-6) < 2e-6


def test_the_rate_of_the_text_takes_effect(tmp_path: Path) -> None:
    last = saved("flow", tmp_path, text_rate=1.0)
    groups = resumed("flow", last, text_rate=0.25).trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 2.5e-4])


def test_relative_rates_stay_those_of_the_start(tmp_path: Path) -> None:
    """Weights that have grown would be sorted into other groups, and their states mistaken for others'."""
    make = partial(relative_adamw, lr=2.0)  # a few steps change the size of every tensor
    torch.manual_seed(0)
    module = stages.STAGES["flow"](optimizer=make)
    trainer = stages.fit(module, steps=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    rates = {name: group["initial_lr"] for group in trainer.optimizers[0].param_groups for name in group["param_names"]}
    again = resumed("flow", tmp_path / "last.ckpt", steps=2, optimizer=make)
    optimizer = again.trainer.optimizers[0]
    found = {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}
    assert found.keys() == rates.keys()
    sizes = {name: parameter.detach().square().mean().sqrt() for name, parameter in module.exported.named_parameters()}
    start = {name: rate / 2.0 for name, rate in rates.items()}
    assert any(sizes[name] > 2 * start[name] for name in sizes), "the test must be able to fail"
    states = {name: optimizer.state[p] for name, p in again.exported.named_parameters()}
    for name, parameter in module.exported.named_parameters():
        if trained := trainer.optimizers[0].state[parameter]:
            assert torch.equal(states[name]["exp_avg"], trained["exp_avg"]), name


def test_states_are_found_by_name_in_other_groups() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    first = keep_options(Adam(layers.named_parameters(), lr=1.0))
    layers(torch.ones(1, 2)).sum().backward()
    first.step()
    second = keep_options(Adam(layers.named_parameters(), lr=0.5))
    scale_rate(second, layers[0].parameters(), 0.1)
    second.load_state_dict(first.state_dict())
    assert [group["lr"] for group in second.param_groups] == pytest.approx([0.5, 0.05])
    for parameter in layers.parameters():
        assert torch.equal(second.state[parameter]["exp_avg"], first.state[parameter]["exp_avg"])
    other = keep_options(Adam(torch.nn.Linear(3, 3).named_parameters(), lr=1.0))
    with pytest.raises(CheckpointError, match=r"of another model: it differs in 0\.bias, 0\.weight, 1\.bias"):
        other.load_state_dict(first.state_dict())


def test_states_without_names_keep_their_places() -> None:
    """As checkpoints from before parameters were named have them."""
    layer = torch.nn.Linear(2, 2)
    first = Adam(layer.parameters(), lr=1.0)
    layer(torch.ones(1, 2)).sum().backward()
    first.step()
    second = keep_options(Adam(layer.named_parameters(), lr=0.5))
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == 0.5
    assert torch.equal(second.state[layer.weight]["exp_avg"], first.state[layer.weight]["exp_avg"])
    scale_rate(second, [layer.bias], 0.1)
    with pytest.raises(CheckpointError, match="other groups"):
        second.load_state_dict(first.state_dict())


def test_another_number_of_batches_a_step_keeps_the_steps() -> None:
    counts = dict.fromkeys(("ready", "started", "processed", "completed"), 6)
    progress = {"total": dict(counts), "current": dict(counts)}
    checkpoint = {"batches_a_step": 2, "loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}
    count_batches(checkpoint, 4)
    assert progress["current"] == progress["total"] == dict.fromkeys(counts, 12)


def test_another_text_encoder_is_refused(tmp_path: Path) -> None:
    last = saved("flow", tmp_path)
    content = torch.load(last, weights_only=True)
    torch.save(content | {"text_hash": "0" * 64}, last)
    with pytest.raises(CheckpointError, match="another text encoder"):
        resumed("flow", last)
