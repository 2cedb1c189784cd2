import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from fluxflow.training.optimizers import CosineSchedule, set_learning_rate


@pytest.mark.parametrize(("warmup", "minimum"), [(0, 0.0), (5, 0.1)])
def test_the_decay_is_that_of_torch(warmup: int, minimum: float) -> None:
    schedule = CosineSchedule(steps=40, warmup=warmup, minimum=minimum)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = CosineAnnealingLR(optimizer, T_max=40 - warmup, eta_min=minimum)
    for step in range(warmup, 41):
        assert schedule(step) == pytest.approx(oracle.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        oracle.step()


def test_the_warm_up_rises_by_equal_parts_to_the_whole_rate() -> None:
    schedule = CosineSchedule(steps=100, warmup=4, minimum=0.5)
    assert [schedule(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_minimum_stays_after_the_last_step() -> None:
    schedule = CosineSchedule(steps=10, warmup=2, minimum=0.2)
    assert schedule(6) == pytest.approx(0.6)
    assert schedule(10) == schedule(1000) == pytest.approx(0.2)


def test_a_run_shorter_than_its_warm_up() -> None:
    assert [CosineSchedule(steps=2, warmup=4)(step) for step in (0, 1)] == [0.25, 0.5]
    assert CosineSchedule(steps=4, warmup=4, minimum=0.1)(4) == 1.0


def test_each_group_keeps_its_own_rate() -> None:
    optimizer = SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.4)])
    for factor in (0.5, 0.25):  # of the initial rate, not of the last
        assert set_learning_rate(optimizer, factor) == 0.1 * factor
        assert [group["lr"] for group in optimizer.param_groups] == [0.1 * factor, 0.4 * factor]


def test_an_optimizer_that_is_resumed_remembers_its_rate() -> None:
    first, second = (SGD([nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2))
    set_learning_rate(first, 0.5)
    second.load_state_dict(first.state_dict())
    assert set_learning_rate(second, 0.25) == 0.025
