"""What autocast leaves in float32: norms, losses, R1, spectral norm, metrics, averages and optimizers."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.optim import AdamW
from torch.overrides import TorchFunctionMode

from fluxflow.metrics.image import ssim
from fluxflow.training import EMA, vae
from tests.training import stages

FUSED = partial(AdamW, lr=1e-3, fused=True)
OWN_NORMS = (nn.GroupNorm, nn.LayerNorm, _SpectralNorm)


class Types(Callback):
    """The types of what the modules return, by kind of module, and of what the losses take and give."""

    def __init__(self) -> None:
        self.of: defaultdict[str, set[torch.dtype]] = defaultdict(set)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        frozen = getattr(getattr(pl_module, "text_encoder", None), "language_model", nn.Module())
        foreign = set(frozen.modules())
        for module in pl_module.modules():
            if module not in foreign and isinstance(module, (*OWN_NORMS, nn.Conv2d, nn.Linear)):
                kind = "norm" if isinstance(module, OWN_NORMS) else "product"
                module.register_forward_hook(partial(self._note, kind))

    def _note(self, kind: str, module: nn.Module, given: Any, returned: Tensor) -> None:
        self.of[kind].add(returned.dtype)


def noted(types: Types, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose tensors, given and returned, are noted."""

    def wrapped(*given: Any) -> Any:
        returned = function(*given)
        types.of[name] |= {x.dtype for x in (*given, returned) if isinstance(x, Tensor)}
        return returned

    return wrapped


@pytest.mark.parametrize("stage", stages.STAGES)
def test_norms_losses_averages_and_optimizers_stay_in_float32(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"optimizer": FUSED}
    types, ema = Types(), EMA()
    if stage == "vae":
        options |= {"discriminator_optimizer": FUSED, "gan_start": 0, "r1_every": 1}
        for name in ("reconstruction_loss", "kl_divergence", "r1_penalty", "hinge_generator_loss",
                     "hinge_discriminator_loss", "psnr", "ssim"):  # fmt: skip
            monkeypatch.setattr(vae, name, noted(types, name, getattr(vae, name)))
    module = stages.STAGES[stage](**options)
    validate: dict[str, Any] = {"limit_val_batches": 1, "val_check_interval": 2}
    trainer = stages.fit(module, types, ema, steps=2, precision="bf16-mixed", **validate)
    assert types.of.pop("product") == {torch.bfloat16} | ({torch.float32} if stage == "vae" else set())
    assert len(types.of) == (8 if stage == "vae" else 1)
    assert all(found == {torch.float32} for found in types.of.values()), types.of
    states = [tensor for o in trainer.optimizers for state in o.state.values() for tensor in state.values()]
    assert {tensor.dtype for tensor in [*states, *ema.average.values(), *module.parameters()]} == {torch.float32}


class Products(TorchFunctionMode):
    """Whether autocast was on, and the types, at every call of the functions of a name."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names, self.seen = names, []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in self.names:
            self.seen.append((torch.is_autocast_enabled("cpu"), *(x.dtype for x in args if isinstance(x, Tensor))))
        return function(*args, **(kwargs or {}))


def test_spectral_norm_is_taken_without_autocast() -> None:
    """The products of its power iteration are among those that autocast takes in bfloat16 on GPUs."""
    module = stages.vae()
    with torch.autocast("cpu", torch.bfloat16), Products("mv", "vdot") as products:
        verdict = module.discriminator(torch.zeros(1, 3, 16, 16))
    assert verdict.dtype == torch.bfloat16
    assert set(products.seen) == {(False, torch.float32, torch.float32)}


def test_r1_and_its_way_back_are_those_of_float32() -> None:
    """The descent on the penalty, with and without autocast around the step: what differs is the context alone."""
    gradients = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        module = stages.vae(gan_start=0, r1_gamma=1e6, r1_every=1, discriminator_optimizer=stages.plain(1.0), clip=1.0)
        head = dict(module.named_parameters())["discriminator.head.parametrizations.weight.original"]
        before = head.detach().clone()
        stages.fit(module, steps=1, precision=precision)
        gradients.append(head.detach() - before)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-2, atol=2e-2 * gradients[0].abs().max().item())


def test_similarity_is_measured_without_autocast() -> None:
    image = torch.rand(2, 3, 32, 32) * 0.1 + 0.8
    other = image + 0.01 * torch.randn_like(image)
    plain = ssim(image, other)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ssim(image, other), plain, rtol=0, atol=0)
