"""What the published package does in each row of the table; runs in its environment, where `fluxflow` is its own.

    PEER/bin/python benchmarks/peer_steps.py WHAT '{"dim": 32, "side": 64, …}'

The answers are those of benchmarks/ours.py. Trainers, optimizers and schedules are made as its scripts/train.py makes
them, gradient checkpointing included, which that script cannot turn off; LPIPS is off. The language model is frozen, as
with its --pretrained_bert_model. A step that the trainer skips, because it met a NaN, is an error here.
"""

import itertools
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from fluxflow_training.data.datasets import (
    ResumableDimensionSampler,
    TextImageDataset,
    get_or_build_dimension_cache,
)
from fluxflow_training.data.transforms import collate_fn_variable
from fluxflow_training.training.flow_trainer import FlowTrainer
from fluxflow_training.training.optimizer_factory import create_optimizer, get_default_optimizer_config
from fluxflow_training.training.scheduler_factory import create_scheduler, get_default_scheduler_config
from fluxflow_training.training.utils import EMA
from fluxflow_training.training.vae_trainer import VAETrainer
from pairs import answer, asked
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from fluxflow.models import BertTextEncoder, BezierActivation, FluxFlowPipeline, PatchDiscriminator, v060, v080
from fluxflow.models.diffusion_pipeline import DPMSolverMultistepScheduler

# Current diffusers ask every component for its device and type; the published networks have none to tell.
nn.Module.device, nn.Module.dtype = torch.device("cpu"), torch.float32
TEXT, STEPS = 1024, 10_000
CAPTION_TOKENS = 128  # to which its datasets pad


def accelerator():
    return Accelerator(cpu=True, mixed_precision="no")


def optimizer(parameters, name):
    """The default optimizer of a network and its schedule."""
    made = create_optimizer(parameters, get_default_optimizer_config(name))
    return made, create_scheduler(made, get_default_scheduler_config(name), STEPS)


def vae(folder, dim, side, batch):
    compressor, expander = v060.FluxCompressor(d_model=dim), v060.FluxExpander(d_model=dim)
    critic = PatchDiscriminator(in_channels=3, ctx_dim=dim)
    main, schedule = optimizer(list(compressor.parameters()) + list(expander.parameters()), "vae")
    critic_optimizer, critic_schedule = optimizer(critic.parameters(), "discriminator")
    average = EMA(nn.ModuleList([compressor, expander]), decay=0.999)
    trainer = VAETrainer(
        compressor, expander, main, schedule, average, nn.L1Loss(), nn.MSELoss(), discriminator=critic,
        discriminator_optimizer=critic_optimizer, discriminator_scheduler=critic_schedule, use_lpips=False,
        accelerator=accelerator(),
    )  # fmt: skip
    image = torch.rand(batch, 3, side, side) * 2 - 1
    for step, _ in enumerate(asked()):
        if trainer.train_step(image, step)["vae"] <= 0:
            raise SystemExit("the published trainer skipped its step")


class FinishedLatents(nn.Module):
    """In place of the compressor: a packet that is there already."""

    use_gradient_checkpointing = False

    def __init__(self, packet):
        super().__init__()
        self.packet = packet

    def forward(self, image):
        return self.packet

    def get_context_dims(self):
        return 5


class FinishedText(nn.Module):
    """In place of the text encoder: its projection over features that are there already."""

    def __init__(self, projection, features):
        super().__init__()
        self.projection, self.features = projection, features

    def forward(self, input_ids, attention_mask=None):
        return self.projection(self.features)


def flow_trainer(vae_dim, dim, layers, text, compressor):
    network = v080.FluxFlowProcessor(d_model=dim, vae_dim=vae_dim, embedding_size=TEXT, n_layers=layers)
    main, schedule = optimizer(network.parameters(), "flow")
    text_optimizer, text_schedule = optimizer([p for p in text.parameters() if p.requires_grad], "text_encoder")
    return FlowTrainer(network, text, compressor, main, schedule, text_optimizer, text_schedule,
                       accelerator=accelerator())  # fmt: skip


def text_encoder():
    encoder = BertTextEncoder(embed_dim=TEXT)
    encoder.language_model.requires_grad_(False)
    return encoder


def train_flow(trainer, batches):
    for _ in asked():
        image, tokens, mask = next(batches)
        if trainer.train_step(image, tokens, mask, 1)["flow_loss"] <= 0:
            raise SystemExit("the published trainer skipped its step")


def flow(folder, vae_dim, dim, layers, side, batch):
    grid = side // 16
    packet = torch.randn(batch, grid * grid + 1, vae_dim + 5)
    packet[:, -1, :2] = grid / 1024
    projection, hidden = text_encoder().ouput_layer, 768
    text = FinishedText(projection, torch.randn(batch, hidden))
    tokens = torch.zeros(batch, 1, dtype=torch.long)
    train_flow(
        flow_trainer(vae_dim, dim, layers, text, FinishedLatents(packet)), itertools.repeat((None, tokens, tokens))
    )


def flow_pictures(folder, vae_dim, dim, layers, side, batch):
    trainer = flow_trainer(vae_dim, dim, layers, text_encoder(), v080.FluxCompressor(d_model=vae_dim))
    captions = [line.split("\t")[1] for line in Path(folder, "captions.tsv").read_text().splitlines()][:batch]
    padded = {"padding": "max_length", "max_length": CAPTION_TOKENS, "truncation": True, "return_tensors": "pt"}
    tokens = AutoTokenizer.from_pretrained(f"{folder}/text")(captions, **padded)
    image = torch.rand(batch, 3, side, side) * 2 - 1
    train_flow(trainer, itertools.repeat((image, tokens["input_ids"], tokens["attention_mask"])))


def loaded(folder, batch):
    """Its loader over files, in this process; one size of picture."""
    dataset = TextImageDataset(f"{folder}/pictures", f"{folder}/captions.tsv", f"{folder}/text")
    sizes = get_or_build_dimension_cache(dataset, cache_dir=folder)
    sampler = ResumableDimensionSampler(sizes, batch)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=lambda data: collate_fn_variable(data, 3, 1024))
    for epoch in itertools.count():
        sampler.set_epoch(epoch)  # without which a second pass is empty
        for images, tokens in loader:
            if len(tokens) == batch:
                yield images[0], tokens, (tokens != dataset.tokenizer.pad_token_id).long()


def flow_files(folder, vae_dim, dim, layers, side, batch):
    trainer = flow_trainer(vae_dim, dim, layers, text_encoder(), v080.FluxCompressor(d_model=vae_dim))
    train_flow(trainer, loaded(folder, batch))


def sampling(folder, vae_dim, dim, layers, side, steps):
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        algorithm_type="dpmsolver++", solver_order=2, prediction_type="v_prediction",
    )  # fmt: skip
    parts = (
        v080.FluxCompressor(d_model=vae_dim),
        v080.FluxFlowProcessor(d_model=dim, vae_dim=vae_dim, embedding_size=TEXT, n_layers=layers),
        v080.FluxExpander(d_model=vae_dim),
        text_encoder(),
    )
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/text")
    pipeline = FluxFlowPipeline(*(part.eval() for part in parts), tokenizer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": side, "width": side, "num_inference_steps": steps, "guidance_scale": 5.0}
    for step, _ in enumerate(asked()):
        pipeline(f"a photograph of garment number {step}", **options)


def bezier(shape, repeats):
    curve, x = BezierActivation("sigmoid", "silu"), torch.randn(shape, requires_grad=True)
    grad = torch.randn_like(curve(x))
    for _ in asked():
        for _ in range(repeats):
            x.grad = None
            curve(x).backward(grad)


def bezier_saved(shape):
    curve, x = BezierActivation("sigmoid", "silu"), torch.randn(shape, requires_grad=True)
    for _ in sys.stdin:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(partial(_keep, kept), lambda tensor: tensor):
            result = curve(x)
        answer(sum({t.data_ptr(): t.nbytes() for t in kept}.values()) / x.nbytes)
        del result


def _keep(kept, tensor):
    kept.append(tensor.untyped_storage())
    return tensor


def command(arguments):
    """A Python of its own, from which our package is out of sight."""
    for _ in asked():
        subprocess.run([sys.executable, "-P", *arguments], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
