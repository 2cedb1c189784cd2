"""What curves.jsonl says of the networks, and that to write it changes nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow.kernels.bezier import cubic_bezier
from fluxflow.kernels.conv import to_signed
from fluxflow.losses import active_channels, kl_divergence
from fluxflow.models.activations import BezierActivation, PillarBezier, TrainableBezier
from fluxflow.training.callbacks.curves import ACTIVATIONS, Curves, channel_statistics, recorded
from fluxflow.training.ema import EMA
from tests.training import stages


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_run_writes_its_start_every_so_many_steps_and_its_end(tmp_path: Path, stage: str) -> None:
    module = stages.STAGES[stage]()
    curves = Curves(tmp_path / "curves.jsonl", every=2)
    stages.fit(module, EMA(), curves, steps=5, limit_val_batches=1)
    found = lines(tmp_path / "curves.jsonl")
    assert [row["step"] for row in found] == [0, 2, 4, 5]
    names = {name for name, one in module.exported.named_modules() if isinstance(one, ACTIVATIONS)}
    assert all(set(row["curves"]) == names for row in found)
    assert len(names) > 5
    assert found[0]["curves"] != found[-1]["curves"]
    for row in found:
        for record in row["curves"].values():
            mean, deviation, low, high = record["t"]
            assert low <= mean <= high
            assert deviation <= (high - low) / 2 + 1e-6
    assert ("latents" in found[0]) == (stage == "vae")


def test_the_record_is_that_of_the_curves_that_were_computed() -> None:
    """Of t and of points alike: the mean of what an activation gives is that of the curve at each element."""
    torch.manual_seed(0)
    x = torch.randn(3, 20, 4, 5)
    network = nn.Sequential(BezierActivation("sigmoid", "silu"), TrainableBezier((4,), channel_only=True))
    for point in network[1].parameters():
        nn.init.normal_(point)
    with recorded(network) as found:
        middle = network[0](x)
        network[1](middle)
    t, *points = x.double().chunk(5, 1)
    t, points = torch.sigmoid(t), [nn.functional.silu(plane) for plane in points]
    expected = [t.mean(), t.std(correction=0), t.min(), t.max(), *(p.mean() for p in points)]
    expected += [p.std(correction=0) for p in points]
    torch.testing.assert_close(found["0"].double(), torch.stack(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["1"][:1], torch.sigmoid(middle).mean()[None])
    means = torch.stack([p.mean() for p in network[1].parameters()])
    torch.testing.assert_close(found["1"][4:8], means)
    assert not network[0]._forward_hooks


def test_the_curve_of_a_flow_block_has_the_points_of_its_pillars() -> None:
    module = stages.flow()
    block = module.flow_processor.transformer_blocks[0]
    seen: list[tuple[Tensor, ...]] = []
    block.curve.register_forward_hook(lambda one, inputs, output: seen.append((*inputs, output)))
    with recorded(block) as found, torch.no_grad():
        module.held_out(stages.batch(0), 0)
    ((x, points, output),) = seen
    torch.testing.assert_close(found["curve"][4:8], points.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(cubic_bezier(torch.sigmoid(x), *points), output, rtol=1e-5, atol=1e-5)
    assert isinstance(block.curve, PillarBezier)
    assert not [name for name in block.state_dict() if name.startswith("curve")]


def test_channels_add_up_to_the_figures_of_the_losses() -> None:
    mu, logvar = torch.randn(4, 6, 3, 5) * torch.tensor([1, 1, 1, 0, 0.01, 2.0])[:, None, None], torch.randn(4, 6, 3, 5)
    found = channel_statistics(mu, logvar)
    assert sum(found["kl"]) / 6 == pytest.approx(float(kl_divergence(mu, logvar)), rel=1e-4)
    assert sum(found["active"]) == int(active_channels(mu)) == 4
    assert found["mean"] == pytest.approx(mu.mean(dim=(0, 2, 3)).tolist(), abs=1e-4)
    assert found["sigma"] == pytest.approx((0.5 * logvar).exp().mean(dim=(0, 2, 3)).tolist(), rel=1e-4)


def test_the_latents_are_those_of_the_first_held_out_samples_under_the_averaged_weights(tmp_path: Path) -> None:
    module, average = stages.vae(), EMA(decay=0.5)
    data = stages.Data(size=5)
    stages.fit(module, average, Curves(tmp_path / "c", every=3, count=3), steps=3, data=data, limit_val_batches=1)
    with average.swapped(module), torch.no_grad():
        image = to_signed(stages.batch(0, 5)["image"][:3])
        mu, logvar, _ = module.latent_space.compressor.eval().posterior(image)
    assert lines(tmp_path / "c")[-1]["latents"] == channel_statistics(mu, logvar)


@pytest.mark.parametrize("stage", stages.STAGES)
def test_training_is_the_same_to_the_last_bit_with_and_without(tmp_path: Path, stage: str) -> None:
    results = []
    for callbacks in ((), (Curves(tmp_path / "c", every=1),)):
        torch.manual_seed(0)
        module = stages.STAGES[stage]()
        stages.fit(module, EMA(), *callbacks, steps=4, limit_val_batches=1)
        results.append(stages.weights(module))
        assert all(one.training == module.training for one in module.exported.modules())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_resumed_run_goes_on_in_its_file(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "c", tmp_path / "x.ckpt"
    trainer = stages.fit(stages.vae(), Curves(path, every=1), steps=2, limit_val_batches=1)
    trainer.save_checkpoint(checkpoint)
    kept = path.read_bytes()
    with path.open("a") as file:
        file.write('{"step": 3, "curves": {}}\n{"step": 4, "cur')  # of steps after the checkpoint
    stages.fit(stages.vae(), Curves(path, every=1), steps=4, limit_val_batches=1, checkpoint=checkpoint)
    assert path.read_bytes().startswith(kept)
    assert [row["step"] for row in lines(path)] == [0, 1, 2, 3, 4]
    assert lines(path)[3]["curves"]
    stages.fit(stages.vae(), Curves(path, every=4), steps=4, limit_val_batches=1)
    assert [row["step"] for row in lines(path)] == [0, 4], "a run from the start begins anew"


def test_compiled_networks_are_recorded_too_and_compiled_no_more_for_it(tmp_path: Path) -> None:
    graphs: list[list[Any]] = [[], []]
    for compiled, callbacks in zip(graphs, ((), (Curves(tmp_path / "c", every=1),)), strict=True):

        def backend(graph: Any, inputs: Any, compiled: list[Any] = compiled) -> Any:
            compiled.append(graph)
            return graph.forward

        module = stages.vae()
        module.latent_space.expander.compile(backend=backend)
        stages.fit(module, *callbacks, steps=2, limit_val_batches=1)
    assert len(graphs[0]) == len(graphs[1]) > 0
    assert all(len(row["curves"]) > 5 for row in lines(tmp_path / "c"))


def test_without_held_out_data_or_room_training_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = stages.fit(stages.vae(), Curves(tmp_path / "c", every=1), steps=1)
    assert trainer.global_step == 1
    assert not (tmp_path / "c").exists()
    (tmp_path / "file").touch()
    trainer = stages.fit(stages.vae(), Curves(tmp_path / "file" / "c", every=1), steps=1, limit_val_batches=1)
    assert trainer.global_step == 1
    assert "cannot be written" in caplog.text
