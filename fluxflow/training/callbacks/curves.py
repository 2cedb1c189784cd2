"""How the Bézier curves and the latent channels of a run change, written down for its report."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from fluxflow.errors import StorageError
from fluxflow.files import replacing
from fluxflow.json_lines import append_line, read_lines
from fluxflow.kernels.conv import to_signed
from fluxflow.losses import is_active, kl_elements
from fluxflow.models.activations import BezierActivation, PillarBezier, TrainableBezier
from fluxflow.training.ema import averaged
from fluxflow.training.vae import VAELitModule

ACTIVATIONS = (BezierActivation, PillarBezier, TrainableBezier)

Stage = Any  # a VAELitModule or FlowLitModule; Lightning's hooks are typed for every module

log = logging.getLogger(__name__)


class Curves(Callback):
    """Writes a line to `curves.jsonl` at the start, every so many steps and at the end.

    The first held-out samples go through the averaged weights. Of each trained Bézier activation the line holds mean,
    deviation, minimum and maximum of t, and mean and deviation of the control points: for a fixed t, a curve is linear
    in its points, so the mean points give the mean curve. In stage 1 it also holds statistics of the latent channels.

    Args:
        path: the file; a resumed run goes on in it.
        every: steps between two lines.
        count: held-out samples, of the first batch.
    """

    def __init__(self, path: str | Path, every: int, count: int = 8) -> None:
        self.path = Path(path)
        self.every = every
        self.count = count
        self._batch: dict[str, Any] = {}
        self._written = 0

    def on_train_start(self, trainer: Trainer, pl_module: Stage) -> None:
        loader = trainer.val_dataloaders
        first = next(iter(loader), {}) if loader is not None else {}
        self._batch = {name: values[: self.count] for name, values in first.items()}  # tensors and lists
        self._written = trainer.global_step
        if trainer.is_global_zero:
            with told():
                self._forget_after(trainer.global_step)
        if trainer.global_step == 0:
            self._write(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Stage, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step > self._written and (step % self.every == 0 or step >= trainer.max_steps):
            self._written = step
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: Stage) -> None:
        if not self._batch:
            return
        batch = trainer.strategy.batch_to_device(self._batch)
        eager = torch.compiler.set_stance("force_eager")  # compiled code knows no hooks
        with averaged(trainer, pl_module), trainer.precision_plugin.val_step_context(), eager:
            with recorded(pl_module.exported) as curves:  # on every rank: weights may be spread over them
                pl_module.held_out(batch, 0)
            row: dict[str, Any] = {"step": trainer.global_step, "curves": described(curves)}
            if isinstance(pl_module, VAELitModule):
                mu, logvar, _ = pl_module.latent_space.compressor.posterior(to_signed(batch["image"]))
                row["latents"] = channel_statistics(mu.float(), logvar.float())
        if trainer.is_global_zero:
            with told():
                append_line(self.path, row)

    def _forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run repeats, and half a line."""
        kept = [row for row in read_lines(self.path) if step and row.get("step", step + 1) <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept).encode()
        if self.path.is_file() and text != self.path.read_bytes():
            with replacing(self.path) as file:
                file.write(text)


@contextmanager
def told() -> Iterator[None]:
    """Log what the disk refuses within the block: training is worth more than these lines."""
    try:
        yield
    except StorageError as error:
        log.warning("%s The run goes on without this line.", error)


@contextmanager
def recorded(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Note of each Bézier activation below `module` that is called within the block what its curves were made of.

    Yields:
        Name → [12]: mean, deviation, minimum and maximum of t, means of p0…p3, deviations of p0…p3.
    """
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(activation: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            t, points = activation.parts(*inputs)
            t, points = t.detach().float(), points.detach().float().flatten(1)
            spread, mean = torch.std_mean(points, dim=1, correction=0)
            about_t = torch.stack([t.mean(), t.std(correction=0), *t.aminmax()])
            found[name] = torch.cat([about_t, mean, spread])

        return hook

    activations = {name: one for name, one in module.named_modules() if isinstance(one, ACTIVATIONS)}
    handles = [one.register_forward_hook(note(name)) for name, one in activations.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def described(found: dict[str, Tensor]) -> dict[str, dict[str, list[float]]]:
    """Name → "t" (mean, deviation, minimum, maximum), "points" (means of p0…p3) and "spread" (their deviations)."""
    if not found:
        return {}
    rows = rounded(torch.stack(list(found.values())))
    return {name: {"t": row[:4], "points": row[4:8], "spread": row[8:]} for name, row in zip(found, rows, strict=True)}


def channel_statistics(mu: Tensor, logvar: Tensor) -> dict[str, list[float]]:
    """Statistics of each latent channel over a batch.

    Args:
        mu, logvar: μ and log σ² of the posterior, [B, D, h, w].

    Returns:
        "mean" and "std" of μ, the mean σ as "sigma", the KL divergence as "kl" in nats per element, and as "active"
        whether the channel carries information (`fluxflow.losses.is_active`); D numbers each.
    """
    std, mean = torch.std_mean(mu, dim=(0, 2, 3), correction=0)
    statistics = {
        "mean": mean,
        "std": std,
        "sigma": (0.5 * logvar).exp().mean(dim=(0, 2, 3)),
        "kl": kl_elements(mu, logvar).mean(dim=(0, 2, 3)),
        "active": is_active(mu).float(),
    }
    return dict(zip(statistics, rounded(torch.stack(list(statistics.values()))), strict=True))


def rounded(values: Tensor, digits: int = 5) -> list[list[float]]:
    """Return a table [R, C] with so many significant digits: what a drawing needs, in half the bytes."""
    return [[float(f"{value:.{digits}g}") for value in row] for row in values.tolist()]
