"""Both stages at their smallest, an endless training stream in a known order, and a trainer for them."""

import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, IterableDataset

from fluxflow.diffusion.process import uniform
from fluxflow.models import LatentSpace, PatchDiscriminator
from fluxflow.training import CosineSchedule, FlowLitModule, VAELitModule
from tests import pipelines

CONSTANT = CosineSchedule(10**9)
CAPTIONS = [f"a {color} {garment}" for color in ("red", "green", "blue") for garment in ("dress", "shirt", "shoe")]


def batch(number: int, size: int = 2) -> dict[str, Any]:
    """Smooth pictures; the same for the same number."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(size, 3, 4, 4, generator=generator) * 255
    image = nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")
    keys = [f"{number}-{index}" for index in range(size)]
    return {"image": image.to(torch.uint8), "caption": [CAPTIONS[(number + i) % 9] for i in range(size)], "key": keys}


def run_two_ranks(command: list[str], timeout: float, **environment: str) -> None:
    """Run a command as both ranks of a gloo group, for `timeout` seconds at most; both must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"} | environment
    root = Path(__file__).parents[2]
    ranks = [subprocess.Popen(command, cwd=root, env=shared | {"LOCAL_RANK": rank}) for rank in "01"]
    assert [rank.wait(timeout=timeout) for rank in ranks] == [0, 0]


class Stream(IterableDataset):
    """batch(start), batch(start + step), … without end, or as many as `count`; `period` of them in turn."""

    def __init__(self, start: int, step: int, period: int | None, size: int, count: int | None = None) -> None:
        self.start, self.step, self.period, self.size, self.count = start, step, period, size, count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in itertools.islice(itertools.count(self.start, self.step), self.count):
            yield batch(number % self.period if self.period else number, self.size)


class Data(LightningDataModule):
    """Rank r of n sees the batches r, r + n, r + 2n, …; a run that goes on, those that follow.

    Args:
        size: pictures a batch.
        period: distinct batches; None: all are.
        batches: per step.
    """

    def __init__(self, size: int = 2, period: int | None = None, batches: int = 1) -> None:
        super().__init__()
        self.size, self.period, self.batches = size, period, batches

    def train_dataloader(self) -> DataLoader:
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        seen = self.trainer.global_step * self.batches if self.trainer else 0
        return DataLoader(Stream(rank + seen * ranks, ranks, self.period, self.size), batch_size=None)

    def first_batches(self) -> Iterator[dict[str, Any]]:
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return iter(Stream(rank, ranks, self.period, self.size))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Stream(0, 1, self.period, self.size, count=2), batch_size=None)


def vae(**options: Any) -> VAELitModule:
    """A VAE in training; `options` are those of VAELitModule."""
    compressor, expander = pipelines.vae()
    critic = PatchDiscriminator(base_ch=4, depth=2, ctx_dim=pipelines.D)
    make = {"optimizer": partial(Adam, lr=1e-3), "discriminator_optimizer": partial(Adam, lr=1e-3)}
    defaults = make | {"learning_rate": CONSTANT, "log_every": 1, "statistics_images": 4}
    return VAELitModule(compressor.train(), expander.train(), critic, **(defaults | options))


def flow(space: LatentSpace | None = None, **options: Any) -> FlowLitModule:
    """A flow in training; `options` are those of FlowLitModule."""
    space = space or LatentSpace(*pipelines.vae())
    torch.manual_seed(1)
    network, text = pipelines.flow().train(), pipelines.text_encoder().train()
    marks = [(mark, pipelines.WORDS.index(mark)) for mark in ("[CLS]", "[SEP]")]  # the empty caption has tokens, too
    text.tokenizer.backend_tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=marks)
    defaults = {"learning_rate": CONSTANT, "log_every": 1, "optimizer": partial(Adam, lr=1e-3)}
    return FlowLitModule(space, network, text, **({"time_sampling": uniform} | defaults | options))


STAGES = {"vae": partial(vae, gan_start=1, gan_ramp=2, r1_every=2, beta_warmup=3), "flow": flow}


def plain(rate: float) -> partial[SGD]:
    """The optimizer whose update is the gradient."""
    return partial(SGD, lr=rate)


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """A silent trainer on the CPU that validates only where it is told to; `options` are those of Trainer."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    return Trainer(callbacks=list(callbacks), **(defaults | quiet | options))


def fit(
    module: LightningModule,
    *callbacks: Callback,
    steps: int,
    data: Data | None = None,
    checkpoint: Path | None = None,
    **options: Any,
) -> Trainer:
    """Train up to `steps`; `options` are those of Trainer."""
    fitting = trainer(*callbacks, max_steps=steps, **options)
    fitting.fit(module, data or Data(), ckpt_path=checkpoint, weights_only=True)
    return fitting


class Metrics(Callback):
    """What was logged after each batch; `metrics[name]` is its value wherever it was logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.rows.append({name: value.item() for name, value in trainer.callback_metrics.items()})

    def __getitem__(self, name: str) -> list[float]:
        return [row[name] for row in self.rows if name in row]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of a module, by name."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
