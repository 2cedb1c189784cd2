"""Compare with what benchmarks/peer.py recorded of the published package; docs/published.md has the figures.

python benchmarks/published.py gradients tests/fixtures/v0.8.0.safetensors gradients.safetensors
python benchmarks/published.py draw exported/ drawn.safetensors
python benchmarks/published.py step exported/ stepped.safetensors
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from fluxflow.checkpoint.index import ModelIndex
from fluxflow.models import BertTextEncoder, FluxCompressor, FluxExpander, FluxFlowProcessor, FluxPipeline
from fluxflow.pipeline import FluxFlowPipeline
from fluxflow.published.keys import counterparts
from fluxflow.published.reader import CLASSES
from fluxflow.published.writer import export_published

PROMPT, STEPS, GUIDANCE = "a red dress", 20, 5.0  # as in benchmarks/peer.py


def gradients(golden: Path, recorded: Path) -> dict[str, float]:
    """Largest distances of recorded and of our gradients from ours in float64, in units of the largest of a tensor.

    Left out are gradients that are zero but for rounding, such as those of keys' biases before a softmax.
    """
    exact, expected = our_gradients(golden, torch.float64), load_file(recorded)
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    names = [name for name in expected if float(exact[name].abs().max()) > 1e-8 * largest]
    ours = our_gradients(golden, torch.float32)
    found = {}
    for component in ("compressor", "expander", "flow_processor", "image", "noisy", "text"):
        mine = [name for name in names if name.partition(".")[0] == component]
        found[f"{component}, {len(mine)} tensors, theirs"] = max(relative(expected[n], exact[n]) for n in mine)
        found[f"{component}, {len(mine)} tensors, ours"] = max(relative(ours[n], exact[n]) for n in mine)
    return found


def our_gradients(golden: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Gradients of the same loss under the published names and in the published order of rows."""
    with safe_open(golden, "pt") as file:
        header = file.metadata()
    vectors = {key: tensor.to(dtype) for key, tensor in load_file(golden).items()}
    networks, tables = {}, {}
    for component, key in (("compressor", "compressor"), ("expander", "expander"), ("flow_processor", "flow")):
        layout = {"layout": "published"} if key == "flow" else {}
        arguments = {**json.loads(header["kwargs"])[key], **layout, "version": header["model_version"]}
        network = CLASSES[component](**arguments).to(dtype)
        table = tables[component] = counterparts(component, network)
        network.load_state_dict({part.ours: part.read(vectors[f"param.{key}.{name}"]) for name, part in table.items()})
        networks[component] = network.eval()
    inputs = {name: vectors[f"in.{name}"].requires_grad_() for name in ("image", "noisy", "text")}
    eps = torch.zeros_like(vectors["out.mu"])
    packed, mu, logvar = networks["compressor"](inputs["image"], training=True, eps=eps)
    velocity = networks["flow_processor"](inputs["noisy"], inputs["text"], vectors["in.timestep"])
    outputs = (packed, mu, logvar, networks["expander"](packed), velocity)
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    found = {name: tensor.grad for name, tensor in inputs.items() if tensor.grad is not None}
    for component, table in tables.items():
        parameters = dict(networks[component].named_parameters())
        for name, part in table.items():
            gradient = parameters[part.ours].grad
            gradient = torch.zeros_like(parameters[part.ours]) if gradient is None else gradient
            found[f"{component}.{name}"] = part.write(gradient)
    return found


def relative(value: Tensor, expected: Tensor) -> float:
    """Largest difference in units of the largest expected value."""
    return float((value - expected).abs().max() / expected.abs().max())


def draw(checkpoint: Path, recorded: Path) -> dict[str, float]:
    """Largest difference of two pictures in [0, 1], in 255ths."""
    vectors = load_file(recorded)
    pipeline = FluxFlowPipeline.from_pretrained(checkpoint, text_model=str(checkpoint / "tokenizer"))
    pipeline.set_progress_bar_config(disable=True)
    expected = vectors["out.picture"].permute(0, 3, 1, 2)
    options = {"height": expected.shape[2], "width": expected.shape[3], "output_type": "pt"}
    latents = vectors["in.latents"][:, :-1]
    drawn = pipeline(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=latents, **options).images
    return {"255ths": 255 * float((drawn - expected).abs().max()), "spread of the picture": float(expected.std())}


def step(checkpoint: Path, recorded: Path) -> dict[str, float]:
    """Difference of encode, flow and decode from the published model's."""
    vectors = load_file(recorded)
    pipeline = FluxPipeline.from_pretrained(checkpoint)
    torch.randn_like = torch.zeros_like  # the encoder's noise
    with torch.no_grad():
        picture = pipeline(vectors["in.image"], vectors["in.text"], vectors["in.timestep"])
    expected = vectors["out.picture"]
    return {"relative": relative(picture, expected), "spread of the picture": float(expected.std())}


def weights(out: Path) -> None:
    """Write a model of 0.3.0 at the default sizes, randomly initialised, which fluxflow 0.8.1 cannot make."""
    torch.manual_seed(0)
    parts = {
        "compressor": FluxCompressor(),
        "expander": FluxExpander(),
        "flow_processor": FluxFlowProcessor(128, layout="published"),
        "text_encoder": BertTextEncoder(1024, padded_length=512),
    }
    index = ModelIndex(out, [*parts], [0.0] * 128, [1.0] * 128, None, None)
    export_published(index, parts, out)


def main() -> None:
    """Print a comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(";")[0])
    parser.add_argument("command", choices=["gradients", "draw", "step", "weights"])
    parser.add_argument("ours", type=Path, help="a recorded version, or a published checkpoint; for weights: a new one")
    parser.add_argument("recorded", type=Path, nargs="?", help="what benchmarks/peer.py wrote")
    options = parser.parse_args()
    if options.command == "weights":
        weights(options.ours)
        return
    compare = {"gradients": gradients, "draw": draw, "step": step}[options.command]
    for name, value in compare(options.ours, options.recorded).items():
        print(f"{name:40} {value:.2e}")


if __name__ == "__main__":
    main()
