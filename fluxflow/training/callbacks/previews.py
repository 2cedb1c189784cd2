"""Pictures of what a run has learned so far: always the same ones, drawn with the averaged weights."""

import logging
import statistics
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from fluxflow.errors import StorageError
from fluxflow.image_grid import grid, reconstruction_grid, save_png
from fluxflow.kernels.conv import to_signed
from fluxflow.pipeline import FluxFlowPipeline
from fluxflow.training.ema import averaged
from fluxflow.training.flow import FlowLitModule
from fluxflow.training.vae import VAELitModule

log = logging.getLogger(__name__)


class Previews(Callback, ABC):
    """Saves an image grid every so many steps and at the end, and shows it in TensorBoard or W&B where they are in use.

    Args:
        folder: where `step_000500.png` goes.
        every: steps between two image grids.
        count: held-out images that the image grids show, or whose captions they draw.
    """

    def __init__(self, folder: str | Path, every: int, count: int = 8) -> None:
        self.folder = Path(folder)
        self.every = every
        self.count = count
        self.images: list[Tensor] = []  # uint8 [3, H, W], not all of one size; none where latents are trained from
        self.sizes: list[tuple[int, int]] = []  # height and width of each
        self.captions: list[str] = []
        self._drawn = 0

    @abstractmethod
    def draw(self, pl_module: Any, title: str) -> Image.Image:
        """Return the image grid."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._drawn = trainer.global_step
        images, sizes, captions = [], [], []
        loader = trainer.val_dataloaders
        for batch in () if loader is None else loader:
            images += list(batch.get("image", []))
            latent = batch["image" if images else "mean"]
            scale = 1 if images else pl_module.latent_space.downscale
            sizes += [(latent.shape[2] * scale, latent.shape[3] * scale)] * len(latent)
            captions += batch["caption"]
            if len(captions) >= self.count:
                break
        self.images, self.sizes = images[: self.count], sizes[: self.count]
        self.captions = captions[: self.count]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.captions and step > self._drawn and (step % self.every == 0 or step >= trainer.max_steps):
            self._drawn = step
            with averaged(trainer, pl_module):
                image_grid = self.draw(pl_module, f"step {step}")  # on every rank: weights may be spread over them
            if trainer.is_global_zero:
                self._show(trainer, image_grid, step)

    def _show(self, trainer: Trainer, image_grid: Image.Image, step: int) -> None:
        try:
            save_png(image_grid, self.folder / f"step_{step:06d}.png", {"step": step})
        except StorageError as error:  # training is worth more than a picture of it
            log.warning("%s The run goes on without this grid.", error)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("preview", np.asarray(image_grid), step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image("preview", [image_grid], step)


class Reconstructions(Previews):
    """Stage 1: held-out images above their reconstructions."""

    def draw(self, pl_module: VAELitModule, title: str) -> Image.Image:
        """Return originals, reconstructions and the PSNR of each."""
        images = [to_signed(image.to(pl_module.device)) for image in self.images]
        drawn = [pl_module.latent_space.reconstruct(image[None])[0] for image in images]
        return reconstruction_grid(images, drawn, self.captions, title)


class Samples(Previews):
    """Stage 2: one row a prompt, one column a seed.

    Args:
        folder: where `step_000500.png` goes.
        every: steps between two image grids.
        prompts: one caption or several to draw; the first `count` held-out ones by default.
        count: how many held-out captions.
        seeds: columns.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
    """

    def __init__(
        self,
        folder: str | Path,
        every: int,
        prompts: str | list[str] | None = None,
        count: int = 6,
        seeds: int = 4,
        steps: int = 20,
        guidance: float = 5.0,
    ) -> None:
        super().__init__(folder, every, count)
        self.prompts = [prompts] if isinstance(prompts, str) else prompts
        self.seeds = range(seeds)
        self.steps = steps
        self.guidance = guidance

    def draw(self, pl_module: FlowLitModule, title: str) -> Image.Image:
        """Return the grid, drawn by the pipeline that users have.

        A held-out caption is drawn at the size of its picture, a prompt at the size that most pictures have.
        """
        pipeline = FluxFlowPipeline(**pl_module.exported_model())
        pipeline.set_progress_bar_config(disable=True)
        prompts, sizes = self.prompts or self.captions, self.sizes
        if self.prompts:
            sizes = [statistics.mode(sizes)] * len(prompts)
        rows = [
            pipeline(
                [prompt] * len(self.seeds),
                height=height,
                width=width,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in self.seeds],
            ).images
            for prompt, (height, width) in zip(prompts, sizes, strict=True)
        ]
        return grid(rows, prompts, [f"seed {seed}" for seed in self.seeds], title)
