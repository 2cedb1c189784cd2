import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from tests.training import by_hand, stages

# So small a discriminator has tiny gradients: weights with which each term counts as much as the others.
GAN = {"gan_weight": 100.0, "gan_start": 0, "gan_ramp": 2, "r1_gamma": 1e5, "r1_every": 2}
OPTIONS = {"beta": 0.2, "beta_warmup": 0, "clip": 1e9} | GAN
RATES = (0.001, 1.0)


def vae(accumulate: int) -> Any:
    """The discriminator is in eval mode: each call in training is a step of its power iterations."""
    made = {"optimizer": stages.plain(RATES[0]), "discriminator_optimizer": stages.plain(RATES[1])}
    module = stages.vae(accumulate=accumulate, **made, **OPTIONS)
    module.discriminator.eval()
    return module


def flow(accumulate: int) -> Any:
    return stages.flow(optimizer=stages.plain(RATES[0]), min_snr_gamma=5.0, caption_dropout=0.5, clip=1e9)


def batches_of(module: Any, batches: int) -> dict[str, int]:
    """The trainer's side of accumulation: of a VAE, it is the module's own."""
    return {"accumulate_grad_batches": batches} if module.automatic_optimization else {}


def vae_step(module: Any, shares: by_hand.Shares, step: int) -> None:
    weight = (50.0, 100.0)[step]  # the ramp
    by_hand.vae_step(module, shares, step, rates=RATES, gan_weight=weight, beta=0.2)


STAGES = {"vae": (vae, vae_step), "flow": (flow, partial(by_hand.flow_step, rate=RATES[0]))}
Step = Callable[[Any, by_hand.Shares, int], None]


def expected(module: Any, step: Step, ranks: int, batches: int) -> dict[str, Tensor]:
    """The weights after two steps by hand."""
    module = deepcopy(module)
    for number in range(2):
        first = number * batches * ranks
        step(module, [[stages.batch(first + m * ranks + r) for m in range(batches)] for r in range(ranks)], number)
    return stages.weights(module)


def check(found: dict[str, Tensor], before: dict[str, Tensor], by_hand: dict[str, Tensor]) -> None:
    """Each update is the same but for rounding, which the kinks of L1 and leaky ReLU enlarge at a few elements."""
    assert found.keys() == by_hand.keys()
    for name in found:
        update, expected = found[name].double() - before[name], by_hand[name].double() - before[name]
        assert (update - expected).norm() <= 5e-3 * expected.norm() + 1e-6, name
    moved = sum(not torch.equal(found[name], before[name]) for name in found)
    assert moved > len(found) / 2


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_is_the_mean_gradient_of_its_batches(stage: str, batches: int) -> None:
    make, step = STAGES[stage]
    module = make(batches)
    before, by_the_book = stages.weights(module), expected(module, step, 1, batches)
    stages.fit(module, steps=2, **batches_of(module, batches))
    check(stages.weights(module), before, by_the_book)


@pytest.mark.slow  # processes of their own
def test_two_ranks_make_one_step_of_all_their_batches(tmp_path: Path) -> None:
    stages.run_two_ranks([sys.executable, "-m", "tests.training.test_accumulation", str(tmp_path)], timeout=300)
    for make, step in STAGES.values():
        torch.manual_seed(0)
        module = make(2)
        first, second = (torch.load(tmp_path / f"{make.__name__}{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
        check(first, stages.weights(module), expected(module, step, ranks=2, batches=2))


def one_rank(folder: Path) -> None:
    """Train both stages as one of two processes and leave the weights there."""
    for make, _ in STAGES.values():
        torch.manual_seed(0)
        module = make(2)
        strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")
        trainer = stages.fit(module, steps=2, strategy=strategy, devices=2, **batches_of(module, 2))
        torch.save(module.state_dict(), folder / f"{make.__name__}{trainer.global_rank}.pt")


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]))
