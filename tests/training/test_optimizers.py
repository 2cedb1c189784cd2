import pytest
import torch
from torch import nn

from fluxflow.training import relative_adamw
from fluxflow.training.optimizers import scale_rate


@pytest.mark.parametrize("size", [0.021, 0.05, 0.17, 0.29])
def test_a_step_changes_a_tensor_by_the_rate_times_its_size(size: float) -> None:
    tensor = nn.Parameter(torch.randn(40, 50, generator=torch.Generator().manual_seed(0)) * size)
    before = tensor.detach().clone()
    optimizer = relative_adamw([tensor], lr=0.01)
    tensor.grad = torch.randn(40, 50, generator=torch.Generator().manual_seed(1))
    optimizer.step()  # Adam's first step is the rate times the sign of the gradient
    change = (tensor.detach() - before).square().mean().sqrt() / before.square().mean().sqrt()
    assert change == pytest.approx(0.01, rel=2**0.25 - 1 + 1e-3)  # sizes are rounded to powers of √2


def test_sizes_are_bounded_and_tensors_of_one_rate_form_one_group() -> None:
    sizes = (0.0, 0.001, 0.3, 1.0, 5.0, 0.125)
    tensors = [nn.Parameter(torch.full((3,), size)) for size in sizes]
    optimizer = relative_adamw(tensors, lr=2.0, smallest=0.02, largest=0.25, weight_decay=0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    floor, ceiling, middle = rates[id(tensors[0])], rates[id(tensors[3])], rates[id(tensors[5])]
    assert [rates[id(tensor)] for tensor in tensors] == [floor, floor, ceiling, ceiling, ceiling, middle]
    assert floor == pytest.approx(2 * 0.02, rel=0.19)
    assert (ceiling, middle) == (2 * 0.25, 2 * 0.125)
    assert len(optimizer.param_groups) == 3
    assert all(group["weight_decay"] == 0.1 for group in optimizer.param_groups)


def test_a_checkpoint_brings_its_own_rates_back() -> None:
    optimizer = relative_adamw([nn.Parameter(torch.full((3,), 0.2))], lr=0.01)
    other = relative_adamw([nn.Parameter(torch.full((3,), 0.05))], lr=0.01)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_some_parameters_get_a_fraction_of_their_rate() -> None:
    slow, fast = ([nn.Parameter(torch.full((3,), size)) for size in (0.05, 0.2)] for _ in "ab")
    optimizer = relative_adamw([slow[0], fast[0], slow[1]], lr=0.01)
    before = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    scale_rate(optimizer, slow, 0.25)
    after = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert after == {id(p): before[id(p)] * (0.25 if p in set(slow) else 1) for p in (slow[0], fast[0], slow[1])}
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(0.05 - slow[0], 0.25 * (0.05 - fast[0]), rtol=1e-3, atol=0)
