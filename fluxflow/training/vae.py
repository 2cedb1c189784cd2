"""Stage 1: the VAE against a patch discriminator."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from fluxflow.kernels.conv import to_signed
from fluxflow.losses import (
    active_channels,
    cosine_warmup,
    hinge_discriminator_loss,
    hinge_generator_loss,
    kl_divergence,
    linear_ramp,
    r1_penalty,
    reconstruction_loss,
)
from fluxflow.metrics.image import psnr, ssim
from fluxflow.models.discriminators import PatchDiscriminator
from fluxflow.models.latent_space import LatentSpace
from fluxflow.models.vae import FluxCompressor, FluxExpander
from fluxflow.training.flops import vae_step
from fluxflow.training.gradients import FiniteCheck, clip, hold_gradients
from fluxflow.training.optimizers import CosineSchedule, keep_options, set_learning_rate
from fluxflow.training.randomness import step_generator
from fluxflow.versions import version_of

MakeOptimizer = Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]


class VAELitModule(LightningModule):
    """Trains the VAE on L1 + mse_weight·MSE + β·KL + gan_weight·hinge, and the discriminator on hinge + R1.

    A step encodes once and decodes once. The unit of every schedule is the generator's optimizer step, which is
    `trainer.global_step`: the discriminator's optimizer is stepped past Lightning's counter. Under autocast the losses,
    R1 with all that it differentiates, and the way back are left to the types that they have.

    Args:
        compressor, expander, discriminator: the networks.
        optimizer, discriminator_optimizer: make an optimizer from parameters.
        learning_rate: factor of both learning rates at a step.
        mse_weight: of the squared error beside the absolute one.
        beta: weight of the KL divergence, reached after `beta_warmup` steps.
        free_bits: nats per latent element that cost nothing.
        gan_weight: of the generator's adversarial loss, reached `gan_ramp` steps after `gan_start`; 0 leaves the
            discriminator out.
        r1_gamma: γ of the R1 penalty, taken every `r1_every` steps and scaled by that interval.
        clip: largest gradient norm of each optimizer.
        accumulate: batches whose gradients make one step.
        statistics_images: training images over which the exported latent statistics are measured.
        log_every: steps between two rows of training metrics.
        seed: of the noise.
    """

    validation_metrics = {"val/loss": "lower", "val/psnr": "higher", "val/ssim": "higher"}  # noqa: RUF012 (a constant)

    def __init__(
        self,
        compressor: FluxCompressor,
        expander: FluxExpander,
        discriminator: PatchDiscriminator,
        optimizer: MakeOptimizer,
        discriminator_optimizer: MakeOptimizer,
        learning_rate: CosineSchedule,
        mse_weight: float = 0.1,
        beta: float = 1e-4,
        beta_warmup: int = 1000,
        free_bits: float = 0.0,
        gan_weight: float = 0.1,
        gan_start: int = 5000,
        gan_ramp: int = 5000,
        r1_gamma: float = 1.0,
        r1_every: int = 16,
        clip: float = 1.0,
        accumulate: int = 1,
        statistics_images: int = 1024,
        log_every: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.latent_space = LatentSpace(compressor, expander)
        self.discriminator = discriminator
        self.make_optimizer, self.make_discriminator_optimizer = optimizer, discriminator_optimizer
        self.learning_rate = learning_rate
        self.mse_weight, self.beta, self.beta_warmup, self.free_bits = mse_weight, beta, beta_warmup, free_bits
        self.gan_weight, self.gan_start, self.gan_ramp = gan_weight, gan_start, gan_ramp
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.clip, self.accumulate = clip, accumulate
        self.statistics_images, self.log_every, self.seed = statistics_images, log_every, seed
        self.check_finite = FiniteCheck(discriminator)
        self._begun: list[Optimizer] = []
        self._flops: dict[tuple[Any, ...], int] = {}

    @property
    def exported(self) -> nn.Module:
        """What is averaged and exported."""
        return self.latent_space

    @property
    def left_out(self) -> bool:
        """Whether the last step was left out for what is exported."""
        return "generator" in self.check_finite.left_out

    def configure_optimizers(self) -> list[Optimizer]:
        return self._begun or self._make_optimizers()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the optimizers while the weights are those of the start, to which rates may be relative."""
        self._begun = self._make_optimizers()

    def _make_optimizers(self) -> list[Optimizer]:
        trained = ((name, p) for name, p in self.exported.named_parameters() if p.requires_grad)
        makers = (
            (self.make_optimizer, trained),
            (self.make_discriminator_optimizer, self.discriminator.named_parameters()),
        )
        return [keep_options(make(parameters)) for make, parameters in makers]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        step, last = self.global_step, (batch_idx + 1) % self.accumulate == 0
        if batch_idx % self.accumulate == 0:
            self.check_finite.begin()
        real = to_signed(batch["image"])
        packed, mu, logvar = self.latent_space.compressor(
            real, training=True, eps=self._noise(real, step, batch_idx % self.accumulate)
        )
        fake = self.latent_space.expander(packed, latent_size=(mu.shape[2], mu.shape[3]))
        context = packed[:, :-1, : mu.shape[1]].float().mean(dim=1).detach()

        losses, norms, metrics = {}, {}, {}
        adversarial = self.gan_weight * linear_ramp(step, self.gan_start, self.gan_ramp)
        if adversarial > 0:
            critic = self._discriminator_step(real, fake.detach(), context, step, last)
            losses["discriminator"], norms["discriminator"], metrics = critic

        beta = self.beta * cosine_warmup(step, self.beta_warmup)
        reconstruction = reconstruction_loss(fake, real, self.mse_weight)
        kl = kl_divergence(mu.float(), logvar.float(), self.free_bits)
        loss = reconstruction + beta * kl
        if adversarial > 0:
            loss = loss + adversarial * hinge_generator_loss(self.discriminator(fake, context).float())
        counted, optimizer, _ = self._optimizers()
        losses["generator"], norms["generator"] = loss, self._backward_and_step(loss, optimizer, counted, step, last)
        if last:
            self.check_finite(step, losses, norms)

        if last and self.global_step % self.log_every == 0:
            self.log("loss", loss.detach())
            metrics |= {"l1_mse": reconstruction.detach(), "kl": kl.detach(), "beta": beta, "gan_weight": adversarial}
            metrics |= {"grad_norm": norms["generator"], "lr": optimizer.param_groups[0]["lr"]}
            metrics |= {"active_channels": active_channels(mu.detach()).float()}
            metrics |= {"posterior_std": (0.5 * logvar.detach()).exp().mean()}
            self.log_dict({f"train/{name}": value for name, value in metrics.items()})
            self.log("step", float(self.global_step))  # the x axis: Lightning's own counts batches

    def _discriminator_step(
        self, real: Tensor, fake: Tensor, context: Tensor, step: int, last: bool
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Hinge loss, and R1 every `r1_every` steps; returns the loss, its gradient's norm and metrics."""
        self.discriminator.requires_grad_(True)
        logits = self.discriminator(torch.cat([real, fake]), torch.cat([context, context]))
        logits_real, logits_fake = logits.float().chunk(2)
        loss = hinge_discriminator_loss(logits_real, logits_fake)
        if self.r1_gamma > 0 and step % self.r1_every == 0:
            real = real.detach().requires_grad_(True)
            with torch.autocast(real.device.type, enabled=False):
                penalty = r1_penalty(self.discriminator(real, context), real)
            loss = loss + self.r1_gamma * self.r1_every * penalty
        optimizer = self._optimizers()[2]
        norm = self._backward_and_step(loss, optimizer, optimizer, step, last)
        self.discriminator.requires_grad_(False)
        metrics = {
            "loss_discriminator": loss.detach(),
            "logits_real": logits_real.detach().mean(),
            "logits_fake": logits_fake.detach().mean(),
            "grad_norm_discriminator": norm,
        }
        return loss, norm, metrics

    def _optimizers(self) -> tuple[Any, Optimizer, Optimizer]:
        """Lightning's counting wrapper of the generator's optimizer, and both optimizers themselves."""
        wrapped: Any = self.optimizers()
        bare: Any = self.optimizers(use_pl_optimizer=False)
        return wrapped[0], bare[0], bare[1]

    def _backward_and_step(self, loss: Tensor, optimizer: Optimizer, stepper: Any, step: int, last: bool) -> Tensor:
        """Accumulates the gradient of `loss`; `stepper` is the optimizer, or Lightning's counting wrapper of it."""
        with hold_gradients(self.trainer, not last), torch.autocast(loss.device.type, enabled=False):
            self.manual_backward(loss / self.accumulate)
        if not last:
            return loss.new_zeros(())
        set_learning_rate(optimizer, self.learning_rate(step))
        norm = clip(optimizer, self.clip)
        stepper.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def flops(self, batch: dict[str, Any]) -> int:
        """Floating-point operations of the training step with this batch."""
        adversarial = self.gan_weight * linear_ramp(self.global_step, self.gan_start, self.gan_ramp) > 0
        r1 = adversarial and self.r1_gamma > 0 and self.global_step % self.r1_every == 0
        key = (tuple(batch["image"].shape), adversarial, r1)
        if key not in self._flops:
            space, critic = self.latent_space, self.discriminator if adversarial else None
            self._flops[key] = vae_step(space.compressor, space.expander, critic, key[0], r1)
        return self._flops[key]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        values = self.held_out(batch, batch_idx) | {"step": float(self.global_step)}
        self.log_dict(values, batch_size=len(batch["image"]), sync_dist=True)

    def held_out(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """What validation measures of a batch: the fidelity of reconstructions."""
        image = to_signed(batch["image"])
        reconstruction = self.latent_space.reconstruct(image).float()
        return {
            "val/loss": reconstruction_loss(reconstruction, image, self.mse_weight),
            "val/psnr": psnr(reconstruction, image).mean(),
            "val/ssim": ssim(reconstruction, image).mean(),
        }

    def exported_model(self) -> dict[str, Any]:
        """What the model folder holds, with the statistics of the latents of training images."""
        mean, std = self._latent_statistics()
        space = self.latent_space
        return {"compressor": space.compressor, "expander": space.expander, "latent_mean": mean, "latent_std": std}

    @torch.no_grad()
    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Per-channel mean and deviation of the tokens of `statistics_images` training images, [D] each.

        Version 1.0 has one deviation for all: its channels are frequencies, and noise is to hide the high ones first.
        """
        tokens, seen = [], 0
        data: Any = getattr(self.trainer, "datamodule")  # noqa: B009 (Lightning does not declare it)
        for index, batch in enumerate(data.first_batches()):
            image = to_signed(batch["image"].to(self.device))
            eps = self._noise(image, "statistics", index)
            tokens.append(self.latent_space.compressor(image, eps=eps)[:, :-1].double().flatten(0, 1).cpu())
            seen += len(image)
            if seen >= self.statistics_images:
                break
        values = torch.cat(tokens)
        mean, variance = values.mean(dim=0), values.var(dim=0)
        if version_of(self.latent_space.compressor.config["version"]).residual:
            variance = variance.mean().expand_as(variance)
        return mean.float(), variance.sqrt().float()

    def _noise(self, image: Tensor, *identity: int | str) -> Tensor:
        """Standard normal noise of the posterior, the same for the same seed, rank and identity."""
        size = self.latent_space.latent_size(image.shape[2], image.shape[3])
        generator = step_generator(image.device, self.seed, self.global_rank, *identity)
        channels = self.latent_space.compressor.config["d_model"]
        return torch.randn(len(image), channels, *size, generator=generator, device=image.device)
