"""What a step keeps, counted from its shapes, and blocks that are recomputed where that is too much."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow.training.callbacks import Memory
from fluxflow.training.memory import free_memory, kept_for_backward, states_to_come
from tests import pipelines
from tests.training import stages

FREE = "fluxflow.training.callbacks.memory.free_memory"


def test_each_storage_counts_once_and_parameters_do_not() -> None:
    weight = nn.Parameter(torch.ones(10))
    x = torch.ones(10, requires_grad=True)

    def forward() -> Tensor:
        y = x * weight  # keeps x
        return y.exp().square() + y.tanh()  # keeps the exponential, once, and the hyperbolic tangent

    kept = kept_for_backward(forward)
    assert (kept.total, kept.largest) == (3 * 40, 40)


def test_gradients_and_moments_are_still_to_come() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    optimizer = torch.optim.Adam([layer.weight])
    assert states_to_come(layer, [optimizer]) == 6 * 4 * 3
    layer.weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert states_to_come(layer, [optimizer]) == 6 * 4


def real_forward(module: Any, batch: dict[str, Any]) -> Any:
    """The forward of a step on real tensors."""
    if hasattr(module, "discriminator"):
        image = batch["image"].float()
        packed, mu, _ = module.latent_space.compressor(image, training=True)
        fake, context = module.latent_space.expander(packed), packed[:, :-1].mean(dim=1).detach()
        verdict = module.discriminator(torch.cat([image, fake.detach()]), torch.cat([context, context]))
        return fake, verdict, mu
    text = torch.zeros(2, pipelines.TEXT, requires_grad=True)
    return module.flow_processor(torch.randn(2, 17, pipelines.D), text, torch.rand(2), (4, 4))


@pytest.mark.parametrize("stage", stages.STAGES)
def test_the_draft_keeps_what_the_step_keeps(stage: str) -> None:
    """Within what mask and sizes of kernels add on a CPU."""
    module = stages.STAGES[stage](**({"r1_gamma": 0.0} if stage == "vae" else {}))
    batch = stages.batch(0)
    drafted, real = (kept_for_backward(f) for f in (lambda: module.draft(batch), lambda: real_forward(module, batch)))
    assert drafted.total == pytest.approx(real.total, rel=0.1)
    assert drafted.largest == real.largest


def recomputing(module: nn.Module) -> set[bool]:
    return {network.checkpointing for network in module.modules() if hasattr(network, "checkpointing")}  # pyright: ignore[reportUnhashable]


@pytest.mark.parametrize("stage", stages.STAGES)
def test_recomputed_blocks_change_nothing(stage: str) -> None:
    results = []
    for mode in ("none", "blocks"):
        torch.manual_seed(0)
        module = stages.STAGES[stage]()
        stages.fit(module, Memory(mode), steps=2)
        assert recomputing(module) == {mode == "blocks"}
        results.append(stages.weights(module))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("stage", stages.STAGES)
def test_by_itself_it_recomputes_what_would_not_fit(
    stage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = stages.STAGES[stage]()
    needed = kept_for_backward(lambda: module.draft(stages.batch(0))).total + states_to_come(module, [])
    for free, expected in ((needed // 2, True), (needed * 10, False)):
        monkeypatch.setattr(FREE, lambda device: free)  # noqa: B023
        with caplog.at_level(logging.INFO, "fluxflow"):
            stages.fit(module, Memory("auto"), steps=1)
        assert recomputing(module) == {expected}
        told = [record.getMessage() for record in caplog.records if record.name.startswith("fluxflow")]
        assert ("recomputed" if expected else "kept") in told[-1]


def test_free_memory_is_less_than_the_machine_has() -> None:
    assert 1e7 < free_memory(torch.device("cpu")) < 1e14
