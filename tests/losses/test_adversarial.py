import pytest
import torch
from torch import Tensor, nn

from fluxflow.losses import hinge_discriminator_loss, hinge_generator_loss, linear_ramp, r1_penalty
from fluxflow.models import PatchDiscriminator


def test_hinge_values():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert float(hinge_discriminator_loss(real, fake)) == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3))
    assert float(hinge_generator_loss(fake)) == pytest.approx(2 / 3)


def test_hinge_ignores_what_is_beyond_the_margin():
    real, fake = torch.tensor([1.5, 0.5], requires_grad=True), torch.tensor([-1.5, 0.5], requires_grad=True)
    hinge_discriminator_loss(real, fake).backward()
    assert real.grad.tolist() == [0, -0.25]
    assert fake.grad.tolist() == [0, 0.25]


def test_generator_climbs_the_logits():
    fake = torch.randn(4, 1, 2, 2, requires_grad=True)
    hinge_generator_loss(fake).backward()
    torch.testing.assert_close(fake.grad, torch.full_like(fake, -1 / 16))


def finite_difference_penalty(network: nn.Module, images: Tensor, step: float = 1e-5) -> float:
    """½·mean over images of Σ over pixels of (∂ mean logit / ∂ pixel)², by central differences."""
    total = 0.0
    for image in images:
        for index in range(image.numel()):
            nudge = torch.zeros(image.numel(), dtype=image.dtype)
            nudge[index] = step
            above, below = (network((image + sign * nudge.view_as(image))[None]).mean() for sign in (1, -1))
            total += float((above - below) / (2 * step)) ** 2
    return 0.5 * total / len(images)


@torch.no_grad()
def settled_discriminator() -> nn.Module:
    discriminator = PatchDiscriminator(base_ch=4, depth=1).double()
    for _ in range(10):
        discriminator(torch.randn(1, 3, 6, 6, dtype=torch.float64))
    return discriminator.eval()


def test_r1_is_half_the_squared_gradient():
    discriminator = settled_discriminator()
    images = torch.randn(3, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(discriminator(images), images)
    with torch.no_grad():
        expected = finite_difference_penalty(discriminator, images)
    assert penalty.item() == pytest.approx(expected, rel=1e-6)


def test_r1_of_a_linear_judge():
    """D(x) = ⟨w, x⟩ has ½‖w‖² for every image, whatever the batch."""
    weight = torch.randn(3, 4, 4, dtype=torch.float64)
    for count in (1, 5):
        images = torch.randn(count, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        logits = (images * weight).sum(dim=(1, 2, 3))[:, None, None, None]
        torch.testing.assert_close(r1_penalty(logits, images), 0.5 * weight.square().sum())


def test_r1_trains_the_discriminator():
    """The penalty's derivative along a random direction of the weights, against a finite difference."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 1)).double()
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(r1_penalty(network(images), images), [network[0].weight, network[2].weight])
    weights = network[0].weight, network[2].weight
    directions = [torch.randn_like(weight) for weight in weights]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    def moved(step: float) -> float:
        state = {f"{i}.weight": w + step * d for i, w, d in zip((0, 2), weights, directions, strict=True)}
        return r1_penalty(torch.func.functional_call(network, state, (images,)), images).item()

    assert slope == pytest.approx((moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-6)


def test_ramp():
    assert [linear_ramp(step, start=10, length=4) for step in (0, 9, 10, 11, 12, 13, 14, 99)] == [
        0, 0, 0.25, 0.5, 0.75, 1, 1, 1,
    ]  # fmt: skip
    assert [linear_ramp(step, start=3, length=0) for step in (2, 3, 4)] == [0, 1, 1]
