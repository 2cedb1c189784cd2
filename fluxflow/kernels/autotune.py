"""Forms of a stride-2 convolution for CUDA, and which of them is fastest there. Never run on a GPU yet.

A transposed convolution of stride 2 is stride-1 convolutions followed by a pixel shuffle. With an even kernel of 2·half
taps, outputs of one parity q meet every second tap of the kernel w:

    y[2j + q] = Σ_a  x[j + shift − a] · w[2a + r]        shift, r = divmod(q + padding, 2)

that is a convolution of x with `half` taps for each of the 2×2 parities. Either four convolutions compute them, or one
with the taps of all four side by side, which for an odd padding needs one tap more, since the shifts then differ.
"""

import logging
import math
import statistics
from collections.abc import Callable, Hashable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Form = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]  # of input, weight, bias and padding

log = logging.getLogger(__name__)


def _taps(weight: Tensor, dim: int, q: int, padding: int) -> Tensor:
    """The taps that outputs of parity q meet along `dim`, in the order in which a convolution meets its input."""
    return weight.unflatten(dim, (-1, 2)).select(dim + 1, (q + padding) % 2).flip(dim)


def four_convolutions(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """F.conv_transpose2d(x, weight, bias, stride=2, padding=padding) for an even, square kernel."""
    half = weight.shape[-1] // 2
    margins = []
    for q in range(2):
        before = half - 1 - (q + padding) // 2
        margins.append((before, 2 * half - 2 - padding - before))
    phases = []
    for row in range(2):
        rows = _taps(weight, 2, row, padding)
        for column in range(2):
            taps = _taps(rows, 3, column, padding).transpose(0, 1)
            phases.append(F.conv2d(F.pad(x, (*margins[column], *margins[row])), taps, bias))
    return F.pixel_shuffle(torch.stack(phases, 2).flatten(1, 2), 2)


def one_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """The same."""
    half, odd = weight.shape[-1] // 2, padding % 2
    before = half - 1 - padding // 2
    margin = (before, 2 * half - 2 - padding - before + odd)
    phases = []
    for row in range(2):
        rows = _taps(weight, 2, row, padding)
        for column in range(2):
            taps = _taps(rows, 3, column, padding).transpose(0, 1)
            room = (odd * column, odd * (1 - column), odd * row, odd * (1 - row))
            phases.append(F.pad(taps, room))
    kernel = torch.stack(phases, 1).flatten(0, 1)
    y = F.conv2d(F.pad(x, margin * 2), kernel, None if bias is None else bias.repeat_interleave(4))
    return F.pixel_shuffle(y, 2)


def cuda_milliseconds(run: Callable[[], None]) -> float:
    """Median time of `run` on the current stream once it is warm, infinite if it does not fit into memory."""
    times = []
    try:
        for _ in range(3):  # cuDNN tries its own algorithms in the first
            run()
        for _ in range(5):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    except torch.cuda.OutOfMemoryError:
        return math.inf
    return statistics.median(times)


class Autotuner:
    """Times the forms of a layer once for each shape, dtype and device, and remembers which won.

    Args:
        clock: runs a form and tells how long it takes, in any unit.
    """

    def __init__(self, clock: Callable[[Callable[[], None]], float] = cuda_milliseconds) -> None:
        self.clock = clock
        self.winners: dict[Hashable, str] = {}

    def fastest(self, forms: Mapping[str, Form], x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> str:
        """The name of the form that is fastest for tensors like these: forward, and backward where there will be one.

        Among equals it is the first.
        """
        wanted = [tensor.requires_grad and torch.is_grad_enabled() for tensor in (x, weight)]
        layout = x.is_contiguous(memory_format=torch.channels_last)
        # the parts that decide; the names of the forms tell the two kinds of layer apart
        key = (*forms, x.shape, weight.shape, padding, x.dtype, x.device, layout, *wanted)

        def trial(form: Form) -> None:
            inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip((x, weight), wanted, strict=True)]
            # Own hooks: those of a surrounding checkpoint would count what is saved here, and miss it later.
            with torch.enable_grad(), saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
                y = form(inputs[0], inputs[1], None if bias is None else bias.detach(), padding)
                if y.requires_grad:
                    torch.autograd.grad(y, [tensor for tensor in inputs if tensor.requires_grad], y.detach())

        if key not in self.winners:
            times = {name: self.clock(lambda form=form: trial(form)) for name, form in forms.items()}
            self.winners[key] = min(times, key=times.__getitem__)
            log.debug("%s: %s", key, times)
        return self.winners[key]


def may_time() -> bool:
    """Whether trials are allowed: not under a compiler or in a graph's capture, nor where runs must repeat exactly."""
    cudnn = torch.backends.cudnn
    allowed = cudnn.benchmark and not cudnn.deterministic and not torch.are_deterministic_algorithms_enabled()
    return allowed and not torch.compiler.is_compiling() and not torch.cuda.is_current_stream_capturing()
