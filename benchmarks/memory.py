"""Prints the memory of a training step: python -m benchmarks.memory [--models tiny small] [--sides 64 128] [--batch 1]

Each row trains two steps in a process of its own and gives the most that they took beyond the weights, without and with
activation checkpointing. Stage 1 with its discriminator and R1; stage 2 from cached latents. On a GPU the tensors
count, on a CPU the process.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning import LightningModule, Trainer
from omegaconf import DictConfig
from torch.optim import AdamW
from torch.utils.data import DataLoader

from fluxflow.commands.build import build
from fluxflow.commands.objects import CONFIGS
from fluxflow.diffusion.process import uniform
from fluxflow.kernels.heap import keep_freed_memory
from fluxflow.models import BertTextEncoder, LatentSpace
from fluxflow.training import CosineSchedule, FlowLitModule
from fluxflow.training.callbacks.throughput import peak_memory

STUB = {
    "model_type": "bert", "vocab_size": 8, "hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6,
    "intermediate_size": 8, "max_position_embeddings": 8,
}  # fmt: skip


def configured(stage: str, model: str, checkpointing: bool) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        every_step = ["stage.gan_start=0", "stage.r1_every=1"] if stage == "vae" else []
        options = [f"stage={stage}", f"model={model}", f"activation_checkpointing={checkpointing}"]
        return compose("train", [*options, *every_step])


def stage_of(stage: str, model: str, checkpointing: bool) -> LightningModule:
    """The module of a stage at the size of a model, without a trained VAE or language model."""
    if stage == "vae":
        return build(configured(stage, model, checkpointing).stage)
    networks, config = configured("vae", model, False).stage, configured("flow", model, checkpointing)
    text = BertTextEncoder(config.model.text_dim, backbone=STUB)
    space = LatentSpace(build(networks.compressor), build(networks.expander))
    optimizer, rate = partial(AdamW, lr=1e-4, fused=True), CosineSchedule(10)
    return FlowLitModule(space, build(config.stage.flow_processor), text, optimizer, rate, uniform)


def batch_for(module: Any, count: int, side: int) -> dict[str, Any]:
    batch: dict[str, Any] = {"caption": [""] * count, "key": [""] * count}
    if not isinstance(module, FlowLitModule):
        return batch | {"image": torch.randint(256, (count, 3, side, side), dtype=torch.uint8)}
    size = module.latent_space.latent_size(side, side)
    latents = torch.randn(2, count, module.latent_space.compressor.config["d_model"], *size)
    features = torch.randn(2, count, STUB["hidden_size"])
    return batch | {"mean": latents[0], "logvar": latents[1], "text": features[0], "no_text": features[1]}


def measure(stage: str, model: str, side: int, count: int, checkpointing: bool, precision: Any) -> float:
    """Two steps in this process: the gigabytes that they took."""
    module: Any = stage_of(stage, model, checkpointing)
    batch = batch_for(module, count, side)
    silent = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(devices=1, max_steps=2, precision=precision, **silent)  # pyright: ignore[reportArgumentType]
    module.to(trainer.strategy.root_device)
    keep_freed_memory(module.device)
    before = peak_memory(module.device)
    trainer.fit(module, DataLoader([batch] * 2, batch_size=None))  # pyright: ignore[reportArgumentType]
    return (peak_memory(trainer.strategy.root_device) - before) / 1e9


def apart(*arguments: Any) -> float:
    """`measure` in a process of its own."""
    code = f"import json; from benchmarks.memory import measure; print(json.dumps(measure(*{arguments!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "small"])
    parser.add_argument("--sides", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--stages", nargs="+", default=["vae", "flow"], choices=["vae", "flow"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}, {options.precision}, batch {options.batch}; GB of a step")
    print(f"{'':28} {'without':>8} {'with':>8} {'ratio':>6}")
    for stage, model, side in product(options.stages, options.models, options.sides):
        kept, less = (apart(stage, model, side, options.batch, with_it, options.precision) for with_it in (False, True))
        name = f"{stage} {model}, {side} px"
        print(f"{name:28} {kept:8.3f} {less:8.3f} {less / kept:6.2f}", flush=True)


if __name__ == "__main__":
    main()
