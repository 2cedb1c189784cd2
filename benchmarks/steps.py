"""How many steps sampling needs: python -m benchmarks.steps RUN [--prompts "a red dress" …] [--out sheet.png]

RUN is a flow run or a model folder. Every row draws the same noise with another number of steps and compares with as
many as REFERENCE: the root mean square distance of the pictures, beside that to pictures of other noise, and as PSNR.
Look at the sheet as well.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from fluxflow.image_grid import grid, save_png, to_pil
from fluxflow.pipeline import FluxFlowPipeline

STEPS = (3, 5, 7, 10, 15, 20, 30, 50, 100)
REFERENCE = 200
PROMPTS = [
    "a photo of a red dress on a white background",
    "a photo of a blue t-shirt on a grey background",
    "a photo of a pair of black trousers on a white background",
    "a photo of a pair of black shoes on a grey background",
]
SEEDS = 4


def drawn(pipeline: FluxFlowPipeline, prompts: list[str], steps: int, guidance: float, first_seed: int = 0) -> Tensor:
    """Pictures [prompts · SEEDS, 3, H, W] in [0, 1]."""
    generators = [torch.Generator().manual_seed(first_seed + seed) for _ in prompts for seed in range(SEEDS)]
    options = {"num_images_per_prompt": SEEDS, "generator": generators, "output_type": "pt"}
    return pipeline(prompts, num_inference_steps=steps, guidance_scale=guidance, **options).images


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a flow run or model folder")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--out", type=Path, help="a picture with a row for each number of steps")
    options = parser.parse_args()
    pipeline = FluxFlowPipeline.from_pretrained(options.run)
    pipeline.set_progress_bar_config(disable=True)
    reference = drawn(pipeline, options.prompts, REFERENCE, options.guidance)
    other = distance(reference, drawn(pipeline, options.prompts, REFERENCE, options.guidance, first_seed=SEEDS))
    print(f"{options.run}, guidance {options.guidance:g}, {len(reference)} pictures against {REFERENCE} steps")
    print(f"pictures of other noise are {other:.4f} away")
    print(f"{'steps':>5} {'distance':>9} {'of other noise':>15} {'PSNR':>6}")
    rows = []
    for steps in STEPS:
        pictures = drawn(pipeline, options.prompts, steps, options.guidance)
        away = distance(pictures, reference)
        psnr = -20 * torch.tensor(away).log10()
        print(f"{steps:5} {away:9.4f} {away / other:15.1%} {psnr:6.1f}", flush=True)
        rows.append((f"{steps} steps", pictures[::SEEDS]))
    if options.out is not None:
        rows.append((f"{REFERENCE} steps", reference[::SEEDS]))
        sheet = [to_pil(pictures * 2 - 1) for _, pictures in rows]
        save_png(grid(sheet, [name for name, _ in rows], options.prompts, str(options.run)), options.out, {})


if __name__ == "__main__":
    main()
