"""The measures of `python -m fluxflow.evaluate` while a run trains: on few images, at each validation."""

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from fluxflow.errors import ConfigError
from fluxflow.metrics.features import Features, make_features
from fluxflow.metrics.measure import PARTS, Evaluation
from fluxflow.metrics.reconstruction import evaluate_reconstructions
from fluxflow.metrics.samples import Draw, Photographs, compare_samples, drawing, evaluate_shapes
from fluxflow.metrics.shapes.scoring import CATEGORIES
from fluxflow.metrics.velocity import AVERAGED, evaluate_velocity
from fluxflow.pipeline import FluxFlowPipeline
from fluxflow.training.callbacks.checkpoints import Checkpoints
from fluxflow.training.ema import callbacks_of, find_ema
from fluxflow.training.flow import FlowLitModule

METRICS: dict[str, dict[str, str]] = {  # of each part: the names, and what is better
    "reconstruction": {"l1": "lower", "psnr": "higher", "ssim": "higher", "ms_ssim": "higher", "kl": "",
                       "active_channels": "higher", "perceptual": "lower", "reconstruction_kid": "lower"},
    "velocity": {"velocity_loss": "lower", "velocity_loss_raw": "lower", "caption_gain": "higher"},
    "samples": {"kid": "lower", "diversity": "higher"},
    "captions": dict.fromkeys(CATEGORIES, "higher"),
}  # fmt: skip
OF_FEATURES = {  # what samples have besides, by the kind of the features
    "inception": {"fid": "lower"},
    "dinov2": {"fd_dinov2": "lower"},
    "clip": {"cmmd": "lower", "clip_score": "higher"},
}

log = logging.getLogger(__name__)


class Measures(Callback):
    """Measures the averaged weights at each validation and logs the values, `measure/<name>`.

    The images, captions and noise are always the same. Each rank measures held-out images of its own, and the values
    are averaged over the ranks.

    Args:
        parts: of the evaluation: "reconstruction" in stage 1; "velocity", "samples" and "captions" in stage 2. The last
            draws prompts of `data=shapes` and looks whether the samples show what they say.
        count: held-out images, captions that are drawn, and prompts in each category of "captions".
        seeds: samples of each held-out caption.
        steps, guidance: of the sampler.
        features: of the KID, as of `make_features`; None: those of EfficientNet-Lite0 for samples, none in stage 1.
        share: of the time so far that measuring may take. A validation where it would take more is not measured, but
            for the first and the last. None: each is.
    """

    def __init__(
        self,
        parts: Sequence[str],
        count: int = 16,
        seeds: int = 1,
        steps: int = 20,
        guidance: float = 5.0,
        features: str | None = None,
        share: float | None = 0.1,
    ) -> None:
        self.parts, self.count, self.seeds = tuple(parts), count, seeds
        self.steps, self.guidance, self.share = steps, guidance, share
        self._features_name = features
        self._features: Features | None = None
        self._batches: list[dict[str, Any]] = []
        self._photographs: Photographs | None = None
        self._began = self._spent = self._last = 0.0  # seconds

    @property
    def validation_metrics(self) -> dict[str, str]:
        """Name → "higher" or "lower", whichever is better, of what can make `best.ckpt`."""
        found = {name: better for part in self.parts for name, better in METRICS[part].items() if better}
        if "samples" in self.parts:
            found |= OF_FEATURES.get((self._features_name or "").partition(":")[0], {})
        if "reconstruction" in self.parts and self._features_name is None:
            del found["perceptual"], found["reconstruction_kid"]
        return {f"measure/{name}": better for name, better in found.items()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        known = PARTS["flow" if isinstance(pl_module, FlowLitModule) else "vae"]
        if unknown := [part for part in self.parts if part not in known]:
            raise ConfigError(f"callbacks.measures.parts has {unknown[0]}: it can be {', '.join(known)}.")
        monitor = next((one.monitor for one in callbacks_of(trainer) if isinstance(one, Checkpoints)), None)
        if self.share is not None and monitor in self.validation_metrics:
            raise ConfigError(
                f"callbacks.checkpoints.monitor={monitor} needs a value at each validation: give "
                "callbacks.measures.share=null."
            )
        name = self._features_name or ("efficientnet-lite0" if "samples" in self.parts else None)
        self._features = None if name is None else make_features(name)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic()
        if self.parts:
            self._batches = self._first_held_out(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self._batches or not self._is_due(trainer):
            return
        start = time.monotonic()
        with trainer.precision_plugin.val_step_context():
            values = self._measure(trainer, pl_module)
        pl_module.log_dict({f"measure/{name}": value for name, value in values.items()}, sync_dist=True)
        self._last = time.monotonic() - start
        self._spent += self._last

    def _is_due(self, trainer: Trainer) -> bool:
        if self.share is None or not self._last or trainer.global_step >= trainer.max_steps:
            return True
        due = self._spent + self._last <= self.share * (time.monotonic() - self._began)
        if not trainer.strategy.broadcast(due):
            log.info("step %d is not measured: callbacks.measures would take more than %.0f %% of the time",
                     trainer.global_step, 100 * self.share)  # fmt: skip
            return False
        return True

    def _measure(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        batches = self._batches
        found: list[Evaluation] = []
        for part in self.parts:
            if part == "reconstruction":
                features = None if self._features is None else self._features.to(pl_module.device)
                found.append(evaluate_reconstructions(pl_module.latent_space, batches, features))
            elif part == "velocity":
                found.append(self._velocity(trainer, pl_module))
            elif part == "samples":
                found.append(self._samples(pl_module))
            else:
                found.append(evaluate_shapes(self._drawing(pl_module), self.count))
        return {measure.name: measure.interval.value for one in found for measure in one.measures}

    def _velocity(self, trainer: Trainer, pl_module: Any) -> Evaluation:
        """The loss of the averaged weights, which are in place, and of the trained ones."""
        networks = {AVERAGED: (pl_module.flow_processor, pl_module.text_encoder)}
        result = evaluate_velocity(pl_module.latent_space, networks, self._batches)
        ema = find_ema(trainer)
        with ema.swapped(pl_module) if ema else nullcontext():
            raw = evaluate_velocity(pl_module.latent_space, networks, self._batches).measures[0]
        result.add("velocity_loss_raw", "velocity loss, raw weights", raw.interval, raw.count, group=raw.group)
        return result

    def _samples(self, pl_module: Any) -> Evaluation:
        assert self._features is not None
        features = self._features.to(pl_module.device)
        if self._photographs is None:
            images = torch.cat([batch["image"] for batch in self._batches])
            captions = [caption for batch in self._batches for caption in batch["caption"]]
            self._photographs = Photographs(images, captions, features(images).cpu())
        return compare_samples(self._drawing(pl_module), self._photographs, features, self.seeds)

    def _drawing(self, pl_module: Any) -> Draw:
        first = self._batches[0]
        shape = first["image" if "image" in first else "mean"].shape
        scale = 1 if "image" in first else pl_module.latent_space.downscale
        pipeline = FluxFlowPipeline(**pl_module.exported_model())
        return drawing(pipeline, (shape[2] * scale, shape[3] * scale), self.steps, self.guidance)

    def _first_held_out(self, trainer: Trainer) -> list[dict[str, Any]]:
        """The first `count` held-out samples that are all of one size."""
        loader = trainer.val_dataloaders
        found: list[dict[str, Any]] = []
        lacking = self.count
        for batch in () if loader is None else loader:
            name = "image" if "image" in batch else "mean"
            if found and batch[name].shape[1:] != found[0][name].shape[1:]:
                continue
            found.append({key: values[:lacking] for key, values in batch.items()})
            lacking -= len(found[-1]["caption"])
            if lacking <= 0:
                break
        if "samples" in self.parts and found and "image" not in found[0]:
            raise ConfigError("callbacks.measures.parts has samples, which are compared with images; a cache has none.")
        return found
