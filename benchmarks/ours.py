"""What we do in each row of the table, once for each line of the input: python -m benchmarks.ours vae '{"dim": 32, …}'

Training steps run in Lightning as `train.py` builds them from configs/, with averaging, throughput, progress and log;
only previews and checkpoints are left out. A step lasts from where Lightning wants its batch until it wants the next.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.material import TEXT, caption
from benchmarks.pairs import answer, asked
from fluxflow import kernels
from fluxflow.commands import build
from fluxflow.commands.objects import CONFIGS
from fluxflow.data import LatentDataModule
from fluxflow.data.latents.cache import LatentTransform
from fluxflow.kernels.heap import keep_freed_memory
from fluxflow.models import BertTextEncoder, BezierActivation, FluxCompressor, FluxExpander, FluxFlowProcessor
from fluxflow.models.packet import pack
from fluxflow.pipeline import FluxFlowPipeline
from fluxflow.training import EMA, FlowLitModule
from fluxflow.training.gradients import clip
from fluxflow.training.optimizers import set_learning_rate
from fluxflow.training.randomness import step_generator

Batch = dict[str, Any]


class OnDemand:
    """Batches that are taken from `batches` when somebody asks; sized, since Lightning prefetches from what is not."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 10**9

    def __iter__(self) -> Iterator[Batch]:
        source = iter(self.batches)
        for _ in asked():
            yield next(source)


def composed(folder: str, *overrides: str) -> DictConfig:
    left_out = ["callbacks.previews=null", "callbacks.checkpoints=null", "+trainer.max_epochs=1"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [*overrides, *left_out, f"run_dir={folder}"])


def fit(config: DictConfig, module: Any, loader: Iterable[Batch]) -> None:
    """Train on what the loader has."""
    callbacks = [callback for callback in build.build(config.callbacks).values() if callback is not None]
    loggers = [logger for logger in build.build(config.logger).values() if logger is not None]
    trainer = build.build(config.trainer, callbacks=callbacks, logger=loggers)
    trainer.fit(module, loader)


def pictures(batch: int, side: int) -> Iterator[Batch]:
    """The same noise with new captions, as decoded."""
    image = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    for step in itertools.count():
        names = [str(step * batch + number) for number in range(batch)]
        yield {"image": image, "caption": [caption(int(name)) for name in names], "key": names}


def vae_config(folder: str, dim: int, precision: str, *more: str) -> DictConfig:
    """The published VAE and discriminator, adversarial from the first step on."""
    critic = ["model.disc_base=32", "model.disc_depth=3", "stage.gan_start=0", "stage.gan_ramp=0"]
    size = [f"model.vae_dim={dim}", "model.version=0.6.0"]
    return composed(folder, "stage=vae", f"precision={precision}", *size, *critic, *more)


def vae(folder: str, dim: int, side: int, batch: int, precision: str = "fp32") -> None:
    """The step of stage 1 with its discriminator, on pictures in memory."""
    config = vae_config(folder, dim, precision)
    fit(config, build.build(config.stage), OnDemand(pictures(batch, side)))


def vae_demo(folder: str) -> None:
    """The step of the demo's VAE, on pictures in memory."""
    config = composed(folder, "experiment=demo_vae")
    fit(config, build.build(config.stage), OnDemand(pictures(config.data.batch_size, config.data.image_size)))


def flow_config(folder: str, vae_dim: int, dim: int, layers: int, precision: str = "fp32") -> DictConfig:
    return composed(folder, "stage=flow", f"precision={precision}",
                    f"vae={folder}/vae", f"text.pretrain_model={folder}/text",
                    f"model.vae_dim={vae_dim}", "model.version=0.8.0", f"model.feat_dim={dim}",
                    f"model.flow_layers={layers}", f"model.text_dim={TEXT}")  # fmt: skip


def with_latents(config: DictConfig, side: int, batch: int) -> tuple[Any, Iterator[Batch]]:
    """A flow in training that finds its latents finished, and its batches, with text features."""
    module = build.build(config.stage)
    space, grid = module.latent_space, side // module.latent_space.downscale
    packet = pack(torch.randn(batch, grid * grid, space.compressor.packet_channels), (grid, grid), space.max_hw)
    space.sample = lambda mean, logvar, eps: packet.to(eps.device)
    hidden, dim = module.text_encoder.language_model.config.hidden_size, space.compressor.config["d_model"]
    shapes = {"mean": (dim, grid, grid), "logvar": (dim, grid, grid), "text": (hidden,), "no_text": (hidden,)}
    latents: Batch = {name: torch.randn(batch, *shape) for name, shape in shapes.items()}
    return module, itertools.repeat(latents | {"caption": [""] * batch, "key": [""] * batch})


def flow(folder: str, vae_dim: int, dim: int, layers: int, side: int, batch: int, precision: str = "fp32") -> None:
    """The step of stage 2 from finished latents and text features, as the other side has them here."""
    config = flow_config(folder, vae_dim, dim, layers, precision)
    module, batches = with_latents(config, side, batch)
    fit(config, module, OnDemand(batches))


def flow_pictures(folder: str, vae_dim: int, dim: int, layers: int, side: int, batch: int) -> None:
    """The step of stage 2 from pictures in memory and captions that nobody has seen before."""
    config = flow_config(folder, vae_dim, dim, layers)
    fit(config, build.build(config.stage), OnDemand(pictures(batch, side)))


def cached(folder: str, batch: int) -> Iterator[Batch]:
    """Batches of the cache of latents, read by this process."""
    transform = LatentTransform(flip=0.0, caption_rule="random")
    data = LatentDataModule(f"{folder}/latents", transform=transform, batch_size=batch, num_workers=0)
    data.setup()
    return iter(data.train_dataloader())


def flow_cached(
    folder: str, vae_dim: int, dim: int, layers: int, side: int, batch: int, precision: str = "fp32"
) -> None:
    """The step of stage 2 from the cache, reading included."""
    config = flow_config(folder, vae_dim, dim, layers, precision)
    fit(config, build.build(config.stage), OnDemand(cached(folder, batch)))


def flow_bare(folder: str, vae_dim: int, dim: int, layers: int, side: int, batch: int) -> None:
    """The same step in a plain loop."""
    module: FlowLitModule = build.build(flow_config(folder, vae_dim, dim, layers).stage)
    optimizer, average = module.configure_optimizers(), EMA()
    weights = list(module.exported.parameters())
    trained = [weight.detach() for weight in weights]
    averaged = [weight.clone() for weight in trained]
    batches = cached(folder, batch)
    for step, _ in enumerate(asked()):
        generator = step_generator(module.device, 0, 0, step, 0, "flow")
        given = next(batches)
        keep = torch.rand(batch, generator=generator) >= module.caption_dropout
        loss = module._loss(given, keep, module.time_sampling(batch, generator), generator, None)
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer, module.learning_rate(step))
        clip(optimizer, module.clip)
        optimizer.step()
        torch._foreach_lerp_(averaged, trained, 1 - average.decay)  # pyright: ignore[reportPrivateImportUsage]


def pipeline(folder: str, vae_dim: int, dim: int, layers: int) -> FluxFlowPipeline:
    version = "0.8.0"
    made = FluxFlowPipeline(
        FluxCompressor(d_model=vae_dim, version=version).eval(),
        FluxExpander(vae_dim, version=version).eval(),
        FluxFlowProcessor(dim, vae_dim, TEXT, n_layers=layers, version=version).eval(),
        BertTextEncoder(TEXT, f"{folder}/text").eval(),
    )
    made.set_progress_bar_config(disable=True)
    return made


def sampling(folder: str, vae_dim: int, dim: int, layers: int, side: int, steps: int) -> None:
    """A picture from a new prompt, guidance 5."""
    drawing = pipeline(folder, vae_dim, dim, layers)
    for step, _ in enumerate(asked()):
        drawing(caption(step), height=side, width=side, num_inference_steps=steps, guidance_scale=5.0)


def curve_input(shape: list[int]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    return BezierActivation("sigmoid", "silu"), torch.randn(shape, requires_grad=True)


def bezier(shape: list[int], repeats: int) -> None:
    """Forward and backward of the activation over maps."""
    curve, x = curve_input(shape)
    grad = torch.randn_like(curve(x))
    for _ in asked():
        for _ in range(repeats):
            x.grad = None
            curve(x).backward(grad)


def saved_bytes(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """What autograd keeps for the backward of `function`, shared storage counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function(x)
    del result
    return sum(kept.values())


def bezier_saved(shape: list[int]) -> None:
    """What the activation keeps for its backward, in units of its input."""
    curve, x = curve_input(shape)
    for _ in sys.stdin:
        answer(saved_bytes(curve, x) / x.nbytes)


def command(arguments: list[str]) -> None:
    """A Python of its own."""
    for _ in asked():
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)


WORK = {work.__name__: work for work in (vae, vae_demo, flow, flow_pictures, flow_cached, flow_bare, sampling, bezier,
                                         bezier_saved, command)}  # fmt: skip


def main(what: str, sizes: dict[str, Any]) -> None:
    """Do `what` in a size for each line of the input; with "naive" in plain PyTorch, without the kernels."""
    torch.manual_seed(0)
    with kernels.fast(not sizes.pop("naive", False)):
        keep_freed_memory(torch.device("cpu"))  # as train.py and sample.py do
        WORK[what](**sizes)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
