import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fluxflow.models import FluxCompressor, FluxExpander, PatchDiscriminator
from fluxflow.training import CosineSchedule, VAELitModule
from fluxflow.training.randomness import step_generator
from tests.pipelines import D
from tests.training import by_hand, stages

GAMMA = 1e6  # the gradients of so small a discriminator are tiny
STILL = {"optimizer": stages.plain(0.0), "discriminator_optimizer": stages.plain(0.0)}


class Counted(SGD):
    """Remembers the rate of each of its steps."""

    def __init__(self, parameters: Any, log: list[float], lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.log = log

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.log.append(self.param_groups[0]["lr"])
        super().step(closure)


def test_steps_count_the_generator_and_rates_follow_it() -> None:
    schedule, rates, rates_critic = CosineSchedule(steps=5, warmup=2, minimum=0.1), [], []
    module = stages.vae(
        optimizer=partial(Counted, log=rates, lr=0.1),
        discriminator_optimizer=partial(Counted, log=rates_critic, lr=0.01),
        learning_rate=schedule, accumulate=2, gan_start=2, gan_ramp=0,
    )  # fmt: skip
    metrics = stages.Metrics()
    trainer = stages.fit(module, metrics, steps=5)
    assert trainer.global_step == 5
    assert len(metrics.rows) == 10  # batches
    assert rates == pytest.approx([0.1 * schedule(step) for step in range(5)])
    assert rates_critic == pytest.approx([0.01 * schedule(step) for step in (2, 3, 4)])
    assert metrics["step"][-1] == 5
    assert metrics["train/lr"][-1] == pytest.approx(rates[-1])


def test_before_its_start_the_gan_changes_nothing() -> None:
    """Neither the discriminator, its power iterations included, nor what the generator learns."""
    results = []
    for options in ({"gan_weight": 0.0}, {"gan_weight": 5.0, "gan_start": 2}):
        torch.manual_seed(0)
        module = stages.vae(**options)
        before = stages.weights(module.discriminator)
        stages.fit(module, steps=2)
        results.append(stages.weights(module))
        after = stages.weights(module.discriminator)
        assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_weights_of_the_terms_ramp_with_the_steps() -> None:
    metrics = stages.Metrics()
    module = stages.vae(gan_weight=0.4, gan_start=2, gan_ramp=2, beta=0.3, beta_warmup=4, **STILL)
    stages.fit(module, metrics, steps=6)
    assert metrics["train/gan_weight"] == pytest.approx([0, 0, 0.2, 0.4, 0.4, 0.4])
    assert metrics["train/beta"] == pytest.approx([0.15 * (1 - math.cos(math.pi * min(s, 4) / 4)) for s in range(6)])
    for row in metrics.rows[:2]:  # before the GAN
        assert row["loss"] == pytest.approx(row["train/l1_mse"] + row["train/beta"] * row["train/kl"])


def has_gradient(module: nn.Module) -> bool:
    return any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters())


def test_neither_network_learns_from_the_loss_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    module = stages.vae(gan_start=0, gan_ramp=0, gan_weight=1.0)
    backward, learned = module.manual_backward, []

    def spied(loss: Tensor) -> None:
        for parameter in module.parameters():
            parameter.grad = None
        backward(loss)
        learned.append((has_gradient(module.discriminator), has_gradient(module.latent_space)))

    monkeypatch.setattr(module, "manual_backward", spied)
    stages.fit(module, steps=3)
    assert learned == [(True, False), (False, True)] * 3


def test_the_discriminator_teaches_the_generator() -> None:
    """A discriminator that likes bright pictures makes them brighter, whatever the reconstruction."""

    class Bright(PatchDiscriminator):
        def forward(self, x: Tensor, ctx_vec: Tensor | None = None) -> Tensor:
            return x.mean(dim=(1, 2, 3))[:, None, None, None] + 0 * self.head.bias.sum()

    module = stages.vae(gan_weight=1000.0, gan_start=0, gan_ramp=0, r1_gamma=0.0)
    module.discriminator = Bright(base_ch=4, depth=2, ctx_dim=D)
    before = brightness(module)
    stages.fit(module, steps=5)
    assert brightness(module) > before + 0.02


@torch.no_grad()
def brightness(module: VAELitModule) -> float:
    return module.latent_space.reconstruct(by_hand.signed(stages.batch(0))).mean().item()


def test_r1_comes_every_so_many_steps_and_makes_up_for_the_others() -> None:
    logged = {}
    for gamma in (0.0, GAMMA):
        torch.manual_seed(0)
        module = stages.vae(gan_start=0, r1_gamma=gamma, r1_every=3, **STILL)
        module.discriminator.eval()  # power iterations change its weights
        metrics = stages.Metrics()
        stages.fit(module, metrics, steps=5)
        logged[gamma] = torch.tensor(metrics["train/loss_discriminator"])
    penalties = []
    for step in (0, 3):
        real = by_hand.signed(stages.batch(step))
        eps = torch.randn(2, D, 4, 4, generator=step_generator("cpu", 0, 0, step, 0))
        context = module.latent_space.compressor(real, eps=eps)[:, :-1].mean(dim=1).detach()
        penalties.append(3 * GAMMA * by_hand.r1(module, real, context).item())
    expected = torch.tensor([penalties[0], 0, 0, penalties[1], 0])
    assert min(penalties) > 1e-2
    torch.testing.assert_close(logged[GAMMA] - logged[0.0], expected, rtol=1e-3, atol=1e-6)


def test_the_exported_statistics_are_those_of_the_tokens_of_training_images() -> None:
    module = stages.vae(statistics_images=5)  # three batches of two
    stages.fit(module, steps=1)
    exported = module.exported_model()
    assert exported["compressor"] is module.latent_space.compressor
    assert exported["expander"] is module.latent_space.expander
    tokens = []
    for index in range(3):
        eps = torch.randn(2, D, 4, 4, generator=step_generator("cpu", 0, 0, "statistics", index))
        image = by_hand.signed(stages.batch(index))
        tokens.append(module.latent_space.compressor(image, eps=eps)[:, :-1].detach().double())
    stacked = torch.cat(tokens).flatten(0, 1)  # [96, D]
    mean = stacked.sum(dim=0) / 96
    deviation = ((stacked - mean).square().sum(dim=0) / 95).sqrt()
    torch.testing.assert_close(exported["latent_mean"].double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(exported["latent_std"].double(), deviation, rtol=1e-5, atol=1e-6)


def test_version_1_exports_one_deviation_for_all_channels() -> None:
    """Its high frequencies stay small beside the low ones, as they are."""
    module = stages.vae(statistics_images=2)
    options = {"d_model": D, "version": "1.0", "widths": [8, 8]}
    space = module.latent_space
    space.compressor, space.expander = FluxCompressor(downscales=2, **options), FluxExpander(upscales=2, **options)
    stages.fit(module, steps=1)
    exported = module.exported_model()
    eps = torch.randn(2, D, 4, 4, generator=step_generator("cpu", 0, 0, "statistics", 0))
    tokens = space.compressor(by_hand.signed(stages.batch(0)), eps=eps)[:, :-1].detach().double().flatten(0, 1)
    deviation = tokens.var(dim=0).mean().sqrt()
    torch.testing.assert_close(exported["latent_std"].double(), deviation.expand(D), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(exported["latent_mean"].double(), tokens.mean(dim=0), rtol=1e-5, atol=1e-6)


def test_only_what_is_trained_has_an_optimizer() -> None:
    module = stages.vae()
    generator, critic = module.configure_optimizers()
    given = {parameter for optimizer in (generator, critic) for parameter in optimizer.param_groups[0]["params"]}
    assert given == {parameter for parameter in module.parameters() if parameter.requires_grad}
    assert set(critic.param_groups[0]["params"]) == set(module.discriminator.parameters())


def test_gradients_are_clipped_and_their_norm_is_logged() -> None:
    module = stages.vae(optimizer=stages.plain(1.0), discriminator_optimizer=stages.plain(1.0), gan_start=0, clip=1e-3)
    before, metrics = stages.weights(module), stages.Metrics()
    stages.fit(module, metrics, steps=1)
    for part, name in (("latent_space.", "grad_norm"), ("discriminator.", "grad_norm_discriminator")):
        moved = [p - before[n] for n, p in module.named_parameters() if n.startswith(part)]
        assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(1e-3, rel=0.02)
        assert metrics[f"train/{name}"][0] > 1e-3


def test_one_step_in_bfloat16() -> None:
    module = stages.vae(gan_start=0, r1_every=1)
    before, metrics = stages.weights(module), stages.Metrics()
    stages.fit(module, metrics, steps=1, precision="bf16-mixed")
    assert all(math.isfinite(value) for value in metrics.rows[0].values())
    after = stages.weights(module)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert all(tensor.dtype == torch.float32 for tensor in after.values() if tensor.is_floating_point())
    assert sum(not torch.equal(after[name], before[name]) for name in after) > len(after) / 2
