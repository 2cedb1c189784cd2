"""Stage 2: the flow over the latent tokens of a frozen VAE, conditioned on text."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from fluxflow.diffusion.process import TIMESTEPS, min_snr_weight, noise_schedule, velocity_error
from fluxflow.errors import CheckpointError
from fluxflow.kernels.conv import to_signed
from fluxflow.models.flow import FluxFlowProcessor
from fluxflow.models.latent_space import LatentSpace
from fluxflow.models.text_encoder import TextEncoder
from fluxflow.prompts import alike
from fluxflow.training.flops import flow_step
from fluxflow.training.gradients import FiniteCheck, clip, unscale
from fluxflow.training.optimizers import CosineSchedule, keep_options, scale_rate, set_learning_rate
from fluxflow.training.randomness import step_generator

log = logging.getLogger(__name__)

MakeOptimizer = Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]
TimeSampling = Callable[[int, torch.Generator], Tensor]
FROZEN = ("latent_space.", "text_encoder.language_model.")


class FlowLitModule(LightningModule):
    """Trains flow and text projection to predict the velocity of noised, normalised latent tokens.

    Checkpoints leave out the frozen networks and hold the VAE's hash in their place.

    Args:
        latent_space: the frozen VAE of a stage-1 run.
        flow_processor: the network.
        text_encoder: its backbone is frozen, its projection trained.
        optimizer: makes an optimizer from parameters.
        learning_rate: factor of the learning rate at a step.
        text_rate: rate of the text projection as a fraction of the flow's: what a caption says is a weak signal, and
            the flow finds it only in embeddings that keep still.
        time_sampling: draws the timesteps of a batch.
        min_snr_gamma: bound of the min-SNR weight of the loss; None for the plain mean squared error.
        caption_dropout: share of captions replaced by the empty one, which guidance needs.
        clip: largest gradient norm.
        log_every: steps between two rows of training metrics.
        seed: of the noise.
    """

    validation_metrics = {"val/loss": "lower"}  # noqa: RUF012 (a constant)
    alpha: Tensor
    sigma: Tensor

    def __init__(
        self,
        latent_space: LatentSpace,
        flow_processor: FluxFlowProcessor,
        text_encoder: TextEncoder,
        optimizer: MakeOptimizer,
        learning_rate: CosineSchedule,
        time_sampling: TimeSampling,
        text_rate: float = 1.0,
        min_snr_gamma: float | None = None,
        caption_dropout: float = 0.1,
        clip: float = 1.0,
        log_every: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # the frozen networks are not in the checkpoint; on_load_checkpoint is strict
        self.latent_space = latent_space.eval().requires_grad_(False)
        self.vae_hash, self.text_hash = latent_space.content_hash(), ""
        self.flow_processor, self.text_encoder = flow_processor, text_encoder
        self.make_optimizer, self.learning_rate, self.time_sampling = optimizer, learning_rate, time_sampling
        self.text_rate = text_rate
        self.min_snr_gamma, self.caption_dropout = min_snr_gamma, caption_dropout
        self.clip, self.log_every, self.seed = clip, log_every, seed
        self.check_finite = FiniteCheck()
        self._begun: Optimizer | None = None
        self._flops: dict[tuple[int, ...], int] = {}
        self._last_loss = torch.tensor(0.0)
        alpha, sigma = noise_schedule()
        self.register_buffer("alpha", alpha[:, None, None], persistent=False)
        self.register_buffer("sigma", sigma[:, None, None], persistent=False)

    @property
    def exported(self) -> nn.ModuleDict:
        """What is averaged and exported."""
        return nn.ModuleDict({"flow": self.flow_processor, "text_projection": self.text_encoder.output_layer})

    @property
    def left_out(self) -> bool:
        """Whether the last step was left out for what is exported."""
        return bool(self.check_finite.left_out)

    def setup(self, stage: str) -> None:
        """Refuse a cache of another VAE or text encoder."""
        self.text_hash = self.text_encoder.content_hash()
        check_networks = getattr(getattr(self.trainer, "datamodule", None), "check_networks", None)
        if check_networks is not None:  # a cache of latents
            check_networks(self.vae_hash, self.text_hash)

    def configure_optimizers(self) -> Optimizer:
        return self._begun or self._make_optimizer()

    def _make_optimizer(self) -> Optimizer:
        optimizer = self.make_optimizer(self.exported.named_parameters())
        scale_rate(optimizer, self.text_encoder.output_layer.parameters(), self.text_rate)
        return keep_options(optimizer)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        micro = batch_idx % self.trainer.accumulate_grad_batches
        count = len(batch["caption"])
        generator = step_generator(self.device, self.seed, self.global_rank, self.global_step, micro, "flow")
        keep = torch.rand(count, generator=generator, device=self.device) >= self.caption_dropout
        timesteps = self.time_sampling(count, generator)
        loss = self._loss(batch, keep, timesteps, generator, self.min_snr_gamma)
        self._last_loss = loss.detach()
        if (self.global_step + 1) % self.log_every == 0:
            self.log("loss", loss.detach())
            self.log("train/loss", loss.detach())
        return loss

    def flops(self, batch: dict[str, Any]) -> int:
        """Floating-point operations of the training step with this batch, the frozen language model left out."""
        shape = tuple(batch["mean" if "mean" in batch else "image"].shape)
        if shape not in self._flops:
            text, features = self.text_encoder, (shape[0], *self.text_encoder.feature_shape)
            networks = self.latent_space.compressor, self.flow_processor, text.output_layer
            self._flops[shape] = flow_step(*networks, features, shape, "mean" in batch)
        return self._flops[shape]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        values = self.held_out(batch, batch_idx) | {"step": float(self.global_step)}
        self.log_dict(values, batch_size=len(batch["caption"]), sync_dist=True)

    def held_out(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Mean squared error of the velocity over evenly spread timesteps; noise and times are always the same."""
        count = len(batch["caption"])
        generator = step_generator(self.device, self.seed, self.global_rank, batch_idx, "validation")
        timesteps = (torch.arange(count, device=self.device) + 0.5) * TIMESTEPS / count
        keep = torch.ones(count, dtype=torch.bool, device=self.device)
        return {"val/loss": self._loss(batch, keep, timesteps.long(), generator, None)}

    def _loss(
        self,
        batch: dict[str, Any],
        keep: Tensor,
        timesteps: Tensor,
        generator: torch.Generator,
        min_snr_gamma: float | None,
    ) -> Tensor:
        """‖v̂(z_t, text, t) − v‖², the mean over all elements, each image weighted where min-SNR is asked for."""
        with torch.no_grad():
            mean, logvar = self._posterior(batch)
            eps = torch.randn(mean.shape, generator=generator, device=mean.device)
            packed = self.latent_space.sample(mean, logvar, eps)
        noise = torch.randn(packed[:, :-1].shape, generator=generator, device=packed.device)
        alpha, sigma = self.alpha[timesteps], self.sigma[timesteps]
        size = (mean.shape[2], mean.shape[3])
        text = self._text(batch, keep)
        error = velocity_error(self.flow_processor, packed, noise, timesteps, text, size, alpha, sigma)
        if min_snr_gamma is not None:
            error = error * min_snr_weight(alpha, sigma, min_snr_gamma).flatten()
        return error.mean()

    def _posterior(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and log σ² of a batch of pictures, or of one from a cache, [B, D, h, w]."""
        if "image" in batch:
            image = to_signed(batch["image"])
            self.latent_space.latent_size(image.shape[2], image.shape[3])
            return self.latent_space.posterior(image)
        return batch["mean"].float(), batch["logvar"].float()

    def _text(self, batch: dict[str, Any], keep: Tensor) -> Tensor:
        """The embeddings of the captions, of the empty one where `keep` [B] says no."""
        if "text" in batch:
            features, empty = batch["text"], batch["no_text"]
        else:
            features, empty = self.text_encoder.caption_features([*batch["caption"], ""]).split([len(keep), 1])
        features, empty = alike(features.float(), empty.float())
        keep = keep.reshape(-1, *[1] * (features.dim() - 1))
        return self.text_encoder.output_layer(torch.where(keep, features, empty))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        rate = set_learning_rate(optimizer, self.learning_rate(self.global_step))
        unscale(optimizer, self.trainer.precision_plugin)
        norm = clip(optimizer, self.clip)
        self.check_finite(self.global_step, {"flow": self._last_loss}, {"flow": norm})
        if (self.global_step + 1) % self.log_every == 0:
            self.log_dict({"train/grad_norm": norm, "train/lr": rate, "step": float(self.global_step + 1)})

    def on_train_end(self) -> None:
        if self.global_rank == 0 and (sentence := self.text_encoder.cuts()):
            log.warning(sentence)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().state_dict(*args, **kwargs)
        return {key: value for key, value in state.items() if not key.startswith(FROZEN)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vae_hash"], checkpoint["text_hash"] = self.vae_hash, self.text_hash

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse that of other networks; make the optimizer while the weights are those of the start, as in stage 1."""
        if checkpoint["vae_hash"] != self.vae_hash:
            raise CheckpointError(
                f"the checkpoint was trained on another VAE (sha256 {checkpoint['vae_hash'][:12]}…, not "
                f"{self.vae_hash[:12]}…): give the vae= that it was trained with, or start a new run"
            )
        if different := set(checkpoint["state_dict"]) ^ set(self.state_dict()):
            names = ", ".join(sorted(different)[:3])
            raise CheckpointError(f"the checkpoint is of another model: it differs in {names}")
        if checkpoint.get("text_hash", self.text_hash) != self.text_hash:
            raise CheckpointError("the checkpoint was trained on another text encoder: give the text= of that run")
        self._begun = self._make_optimizer()

    def exported_model(self) -> dict[str, Any]:
        """What the model folder holds."""
        space = self.latent_space
        return {
            "compressor": space.compressor,
            "expander": space.expander,
            "flow_processor": self.flow_processor,
            "text_encoder": self.text_encoder,
            "latent_mean": space.mean,
            "latent_std": space.std,
        }
