"""What the published package itself computes; runs in its environment, where `fluxflow` is the published one.

    PEER/bin/python benchmarks/peer.py record tests/fixtures/v0.6.0.safetensors tests/fixtures/text.safetensors
    PEER/bin/python benchmarks/peer.py gradients tests/fixtures/v0.8.0.safetensors gradients.safetensors
    PEER/bin/python benchmarks/peer.py weights weights/ --version 0.6.0
    PEER/bin/python benchmarks/peer.py draw exported/ drawn.safetensors
    PEER/bin/python benchmarks/peer.py step exported/ stepped.safetensors

`benchmarks/published.py` compares our results with these files; docs/published.md has the figures.
"""

import argparse
import importlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import DistilBertConfig, PreTrainedTokenizerFast

from fluxflow.models import FluxFlowPipeline, FluxPipeline, encoders
from fluxflow.models.versioning import load_versioned_checkpoint

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "red",
    "green",
    "blue",
    "dress",
    "shirt",
    "shoe",
]  # tests/pipelines.py
# Current diffusers ask every component for its device and type; the published networks have none to tell.
nn.Module.device, nn.Module.dtype = torch.device("cpu"), torch.float32
PROMPT, STEPS, GUIDANCE, SIDE = "a red dress", 20, 5.0, 64


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")


def scheduler() -> object:
    """The one that the published `from_pretrained` makes."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="v_prediction",
    )


def moved(network: nn.Module) -> nn.Module:
    """The network with its parameters off their initial values."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def networks(version: str, arguments: dict[str, dict]) -> dict[str, nn.Module]:
    module = f"fluxflow.models.v{version.replace('.', '')}"
    classes = importlib.import_module(module)
    return {
        "compressor": classes.FluxCompressor(**arguments["compressor"]),
        "flow_processor": classes.FluxFlowProcessor(**arguments["flow"]),
        "expander": classes.FluxExpander(**arguments["expander"]),
    }


def recorded(path: Path) -> tuple[dict[str, nn.Module], dict[str, torch.Tensor]]:
    """The networks of a golden file, filled, and its vectors."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
    vectors, made = load_file(path), networks(header["model_version"], json.loads(header["kwargs"]))
    for name, network in made.items():
        prefix = f"param.{'flow' if name == 'flow_processor' else name}."
        state = {key.removeprefix(prefix): value for key, value in vectors.items() if key.startswith(prefix)}
        network.load_state_dict(state)
        network.eval()
    return made, vectors


def record(golden: Path, out: Path) -> None:
    """A small text encoder with its outputs, and a picture that the published pipeline draws with it."""
    torch.manual_seed(0)
    small = {"vocab_size": len(WORDS), "dim": 16, "n_layers": 1, "n_heads": 1, "hidden_dim": 16}
    encoders.DistilBertConfig = lambda **_: DistilBertConfig(**small)
    encoder = moved(encoders.BertTextEncoder(embed_dim=32))
    made, vectors = recorded(golden)
    pipeline = FluxFlowPipeline(**made, text_encoder=encoder, tokenizer=tokenizer(), scheduler=scheduler())
    pipeline.set_progress_bar_config(disable=True)
    latents = vectors["out.packed"][:1].clone()
    latents[:, :-1] = torch.randn(latents[:, :-1].shape)
    drawn = pipeline(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=latents, output_type="np")
    captions = [PROMPT, ""]
    tokens = tokenizer()(captions, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
    mask = (tokens.input_ids != 0).long()
    with torch.no_grad():
        embedded = encoder(tokens.input_ids, attention_mask=mask)
    state = {f"text_encoder.{key}": value for key, value in encoder.state_dict().items()}
    results = {"in.latents": latents, "out.picture": torch.from_numpy(drawn.images), "out.text": embedded}
    save_file({**state, **results}, out, metadata={"prompt": PROMPT, "steps": str(STEPS), "guidance": str(GUIDANCE)})


def gradients(golden: Path, out: Path) -> None:
    """Gradients of the mean squares of every output with respect to every parameter and input."""
    made, vectors = recorded(golden)
    torch.randn_like = torch.zeros_like  # the encoder's noise
    image, noisy, text = (vectors[f"in.{name}"].requires_grad_() for name in ("image", "noisy", "text"))
    packed, mu, logvar = made["compressor"](image, training=True)
    decoded = made["expander"](packed)
    velocity = made["flow_processor"](noisy, text, vectors["in.timestep"])
    sum(x.square().mean() for x in (packed, mu, logvar, decoded, velocity)).backward()
    found = {
        f"{component}.{name}": parameter.grad
        for component, network in made.items()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    save_file({**found, "image": image.grad, "noisy": noisy.grad, "text": text.grad}, out)


def weights(version: str, out: Path) -> None:
    """The default sizes, randomly initialised, as fluxflow-training writes them."""
    torch.manual_seed(0)
    made = networks(version, {"compressor": {}, "expander": {}, "flow": {"d_model": 128, "vae_dim": 128}})
    out.mkdir(parents=True, exist_ok=True)
    state = {f"diffuser.{key}": value for key, value in FluxPipeline(**made).state_dict().items()}
    save_file(state, out / "flxflow_final.safetensors")
    text = encoders.BertTextEncoder(embed_dim=1024).state_dict()
    save_file({f"text_encoder.{key}": value for key, value in text.items()}, out / "text_encoder.safetensors")
    tokenizer().save_pretrained(out / "tokenizer")


def draw(checkpoint: Path, out: Path) -> None:
    """A picture from fixed latents, by the published `FluxFlowPipeline.from_pretrained`."""
    pipeline = FluxFlowPipeline.from_pretrained(str(checkpoint), tokenizer_name=str(checkpoint / "tokenizer"))
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    side = SIDE // 2**pipeline.compressor.downscales
    latents = torch.zeros(1, side * side + 1, pipeline.compressor.d_model)
    latents[:, :-1] = torch.randn(latents[:, :-1].shape, generator=torch.Generator().manual_seed(1))
    latents[:, -1, :2] = side / 1024
    drawn = pipeline(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=latents, output_type="np")
    save_file({"in.latents": latents, "out.picture": torch.from_numpy(drawn.images)}, out)


def step(checkpoint: Path, out: Path) -> None:
    """One pass through the model of `load_versioned_checkpoint`."""
    model = load_versioned_checkpoint(checkpoint, "cpu")
    torch.randn_like = torch.zeros_like  # the encoder's noise
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, SIDE, SIDE, generator=generator) * 2 - 1
    text = torch.randn(1, model.flow_processor.text_proj.in_features, generator=generator)
    time = torch.tensor([0.5])
    with torch.no_grad():
        picture = model(image, text, time)
    save_file({"in.image": image, "in.text": text, "in.timestep": time, "out.picture": picture.contiguous()}, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=["record", "gradients", "weights", "draw", "step"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--version", default="0.6.0")
    options = parser.parse_args()
    if options.command == "weights":
        weights(options.version, *options.paths)
    else:
        {"record": record, "gradients": gradients, "draw": draw, "step": step}[options.command](*options.paths)


if __name__ == "__main__":
    main()
