"""Prints what a GPU makes of everything: python -m benchmarks.gpu [--peak 989] [--save FILE]; --toy to try it on a CPU.

Times are of CUDA events, on a CPU of the clock: medians of --pairs after --warm, with their range. "plain" is the same
with the kernels switched off, "compiled" what torch.compile makes of it. The share of the peak (MFU) is that of the
fastest, and counts the operations that PyTorch's own counter finds in a step without R1, gradients included. A share of
the copy bandwidth is the bytes that the curve has to move, its input and output once and in the backward both
gradients, over the time that copying as many takes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.material import caption, prepare
from benchmarks.ours import Batch, fit, flow_config, pictures, pipeline, vae_config, with_latents
from benchmarks.pairs import machine
from fluxflow import kernels
from fluxflow.commands import build
from fluxflow.kernels import bezier as curves
from fluxflow.kernels.conv import TRANSPOSED_FORMS
from fluxflow.models.compilation import compile_networks

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Training = tuple[Any, Iterator[Batch]]  # a module and its batches


def milliseconds(marks: list[Any]) -> list[float]:
    """The times between marks of `mark`."""
    if DEVICE.type == "cpu":
        return [1000 * (b - a) for a, b in pairwise(marks)]
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(marks)]


def mark() -> Any:
    """A point in the work of the device."""
    if DEVICE.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Marked:
    """A loader of some batches, which marks when each is wanted; Lightning does not ask for one after the last."""

    def __init__(self, batches: Iterator[Batch], count: int) -> None:
        self.batches, self.count = batches, count
        self.marks: list[Any] = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.count):
            self.marks.append(mark())
            yield next(self.batches)


class Table:
    """What is printed and how it is measured.

    Args:
        options: of the command line.
        file: gets every line, too.
    """

    def __init__(self, options: argparse.Namespace, file: Any) -> None:
        self.toy, self.peak, self.pairs, self.warm = options.toy, options.peak, options.pairs, options.warm
        self.file = file

    def say(self, line: str) -> None:
        for out in (sys.stdout, self.file):
            if out is not None:
                print(line, file=out, flush=True)

    def row(self, what: str, times: list[float], more: str = "") -> None:
        counted = times[self.warm :]
        self.say(f"{what:58} {median(counted):10.3f} ms ({min(counted):.3f}–{max(counted):.3f})  {more}")

    def calls(self, work: Callable[[], object]) -> list[float]:
        """The time of each call."""
        marks = [mark()]
        for _ in range(self.warm + self.pairs):
            work()
            marks.append(mark())
        return milliseconds(marks)

    def both(self, what: str, work: Callable[[], object]) -> None:
        """A row of a call with the kernels, beside the plain form."""
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(self.warm + self.pairs):
            for fast in times:
                with kernels.fast(fast):
                    begun = mark()
                    work()
                    times[fast] += milliseconds([begun, mark()])
        ratios = [plain / ours for ours, plain in zip(times[True], times[False])][self.warm :]
        self.row(what, times[True], f"plain/ours {median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")

    def training(self, what: str, config: DictConfig, made: Callable[[], Training], share: bool) -> None:
        """A row of training steps in Lightning, kernels on, off, and compiled; with `share` also the share of the peak.

        Args:
            made: makes a module and its batches anew.
        """
        forms = {"plain": False, "ours": True} | ({} if self.toy else {"compiled": True})
        steps: dict[str, list[float]] = {}
        for form, fast in forms.items():
            with kernels.fast(fast):
                module, batches = made()
                if form == "compiled":
                    compile_networks(module)
                loader = Marked(batches, self.warm + self.pairs + 1)  # a step ends where the next begins
                fit(config, module, loader)
            steps[form] = milliseconds(loader.marks)
        times = {form: median(found[self.warm :]) for form, found in steps.items()}
        more = ", ".join(f"{form}/ours {times[form] / times['ours']:.2f}" for form in times if form != "ours")
        if share:
            operations = count_operations(config, made)
            rate = 1000 * operations / min(times.values())
            more += f", {operations / 1e12:.3g} TFLOP, {rate / 1e12:.3g} TFLOP/s, MFU {rate / self.peak / 1e10:.1f} %"
        self.row(what, steps["ours"], more)


def count_operations(config: DictConfig, made: Callable[[], Training]) -> int:
    """Those of one step."""
    module, batches = made()
    with FlopCounterMode(display=False) as counter:
        fit(config, module, Marked(batches, 1))
    return counter.get_total_flops()


def stage1(table: Table, folder: str) -> None:
    for dim, side, batch in [(8, 32, 2)] if table.toy else [(32, 64, 2), (128, 64, 1), (128, 256, 8)]:
        for precision in ("fp32", "bf16"):
            config = vae_config(folder, dim, precision, "stage.r1_gamma=0")
            what = f"stage-1 step, GAN, dim {dim}, {side} px, batch {batch}, {precision}"
            made = lambda c=config, b=batch, s=side: (build.build(c.stage), pictures(b, s))  # noqa: E731
            table.training(what, config, made, share=precision == "bf16")


def stage2(table: Table, folder: str) -> None:
    vae_dim, dim, layers, side = (8, 32, 1, 32) if table.toy else (128, 256, 4, 256)
    for precision in ("fp32", "bf16"):
        config = flow_config(folder, vae_dim, dim, layers, precision)
        what = (
            f"stage-2 step, latents given, d {dim}, {layers} layers, {(side // 16) ** 2} tokens, batch 4, {precision}"
        )
        table.training(what, config, partial(with_latents, config, side, 4), share=False)


def sampling(table: Table, folder: str) -> None:
    vae_dim, dim, layers, side = (8, 32, 1, 32) if table.toy else (128, 256, 4, 512)
    drawing = pipeline(folder, vae_dim, dim, layers).to(DEVICE)
    prompts = (caption(number) for number in range(10**6))
    for steps in (2, 1) if table.toy else (50, 20):
        table.both(
            f"sampling, {side} px, guidance 5, {steps} steps",
            lambda steps=steps: drawing(next(prompts), height=side, width=side, num_inference_steps=steps),
        )
    if not table.toy:
        drawing.compile_flow()
        draw = partial(drawing, height=side, width=side, num_inference_steps=20)
        table.row(f"sampling, {side} px, guidance 5, 20 steps, CUDA graphs", table.calls(lambda: draw(next(prompts))))


def transposed(table: Table) -> None:
    """The forms of the decoder's transposed convolution, forward and backward."""
    shapes = [(1, 8, 4)] if table.toy else [(8, 128, 16), (8, 128, 32), (8, 128, 64), (8, 128, 128)]
    for batch, channels, side in shapes:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(batch, channels, side, side, device=DEVICE, dtype=torch.bfloat16)
            x = x.to(memory_format=layout).requires_grad_()
            weight = torch.randn(
                channels, 5 * channels, 16, 16, device=DEVICE, dtype=torch.bfloat16, requires_grad=True
            )
            for name, form in TRANSPOSED_FORMS.items():
                what = f"ConvTranspose k16 s2 {[*x.shape]} {str(layout).rpartition('.')[2][:13]}, {name}"
                table.row(what, table.calls(lambda form=form, x=x, w=weight: both_ways(form(x, w, None, 7), x, w)))


def both_ways(y: Tensor, *inputs: Tensor) -> None:
    torch.autograd.grad(y, inputs, y.detach())


def activation(table: Table) -> None:
    """Our curve and what torch.compile makes of the plain one, as shares of the bandwidth of a copy."""
    shapes = [(1, 10, 4, 4)] if table.toy else [(2, 640, 64, 64), (8, 640, 128, 128)]
    compiled = torch.compile(curves.bezier_reference, disable=table.toy)
    for shape in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape, device=DEVICE, dtype=dtype).to(memory_format=layout).requires_grad_()
                moved = 17 * x.nbytes // 5  # forward 5 planes to 1, backward 5 and 1 to 5
                source = torch.empty(moved // 2, dtype=torch.uint8, device=DEVICE)  # a copy reads and writes
                target = torch.empty_like(source)
                copy = median(table.calls(partial(target.copy_, source))[table.warm :])
                for name, curve in (("ours", curves.bezier), ("compiled", compiled)):
                    times = table.calls(lambda c=curve, x=x: both_ways(c(x, 1, "sigmoid", "silu"), x))
                    what = f"Bézier {list(shape)} {str(dtype)[6:]} {str(layout).rpartition('.')[2][:13]}, {name}"
                    table.row(what, times, f"{100 * copy / median(times[table.warm :]):.0f} % of copy bandwidth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of dense bf16 products; 989: H100 SXM")
    parser.add_argument("--save", type=Path, help="a file that gets the table, too")
    parser.add_argument("--toy", action="store_true", help="the smallest sizes: only whether everything runs")
    options = parser.parse_args()
    with ExitStack() as stack:
        file = stack.enter_context(options.save.open("w", encoding="utf-8")) if options.save else None
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        table = Table(options, file)
        name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "no GPU"
        table.say(f"# python -m benchmarks.gpu {' '.join(sys.argv[1:])}")
        table.say(f"{name}, torch {torch.__version__}; {machine(torch.get_num_threads())}, {options.pairs} pairs")
        torch.backends.cudnn.benchmark = True
        activation(table)
        transposed(table)
        stage1(table, folder)
        prepare(Path(folder), 8 if options.toy else 128, 32 if options.toy else 256, 4, "0.8.0", options.toy)
        stage2(table, folder)
        sampling(table, folder)


if __name__ == "__main__":
    main()
