import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow.diffusion import process
from fluxflow.errors import CheckpointError
from fluxflow.models import FluxFlowProcessor, LatentSpace
from fluxflow.training import EMA, CosineSchedule, FlowLitModule
from tests import pipelines
from tests.training import by_hand, stages


def saved(module: FlowLitModule, path: Path, steps: int = 1) -> Path:
    stages.fit(module, EMA(), steps=steps).save_checkpoint(path)
    return path


def test_a_checkpoint_holds_what_is_trained_and_no_more(tmp_path: Path) -> None:
    module = stages.flow()
    state = torch.load(saved(module, tmp_path / "one.ckpt"), weights_only=True)
    networks = {"flow_processor": module.flow_processor, "text_encoder.output_layer": module.text_encoder.output_layer}
    assert state["state_dict"].keys() == {f"{a}.{name}" for a, net in networks.items() for name in net.state_dict()}
    average = next(value for name, value in state["callbacks"].items() if name.startswith("EMA"))["average"]
    trained = sum(parameter.numel() for parameter in module.exported.parameters())
    assert sum(tensor.numel() for tensor in average.values()) == trained
    assert sum(len(group["params"]) for group in state["optimizer_states"][0]["param_groups"]) == len(average)


def test_another_vae_is_refused(tmp_path: Path) -> None:
    checkpoint = saved(stages.flow(), tmp_path / "one.ckpt")
    with pytest.raises(CheckpointError, match="another VAE"):
        stages.fit(stages.flow(LatentSpace(*pipelines.vae(seed=1))), EMA(), steps=2, checkpoint=checkpoint)
    other_units = LatentSpace(*pipelines.vae(), std=torch.full((pipelines.D,), 2.0))
    with pytest.raises(CheckpointError, match="another VAE"):
        stages.fit(stages.flow(other_units), EMA(), steps=2, checkpoint=checkpoint)


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    checkpoint = saved(stages.flow(), tmp_path / "one.ckpt")
    for layers in (1, 3):
        module = stages.flow()
        module.flow_processor = FluxFlowProcessor(16, pipelines.D, pipelines.TEXT, n_head=2, n_layers=layers)
        with pytest.raises(CheckpointError, match=r"another model: it differs in flow_processor\.transformer_blocks"):
            stages.fit(module, EMA(), steps=2, checkpoint=checkpoint)


def test_the_share_of_dropped_captions() -> None:
    for share in (0.0, 0.3):
        module, seen = stages.flow(caption_dropout=share), []
        module.text_encoder.output_layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # noqa: B023
        options = {"limit_val_batches": 2, "val_check_interval": 8}
        stages.fit(module, steps=8, data=stages.Data(size=40), **options)
        empty, kept = module.text_encoder.caption_features([""]), []
        for number, features in enumerate(seen):
            own = module.text_encoder.caption_features(stages.batch(number % 8, size=40)["caption"])
            kept.append((features == own).all(dim=1))
            assert torch.equal(features[~kept[-1]], empty.expand(len(kept[-1]) - int(kept[-1].sum()), -1))
        assert 1 - torch.cat(kept[:8]).float().mean() == pytest.approx(share, abs=0.08)  # 3 σ of 320 draws
        assert len(kept) == 10
        assert all(rows.all() for rows in kept[8:]), "validation keeps its captions"


def test_a_dropped_caption_is_the_empty_one_of_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = stages.flow(caption_dropout=1.0, learning_rate=CosineSchedule(1, warmup=10**9)), []
    module.flow_processor.register_forward_pre_hook(lambda _, arguments: given.append(arguments[1].detach()))
    stages.fit(module, steps=1)
    null = module.text_encoder.encode([""]).detach()
    torch.testing.assert_close(given[0], null.expand(2, -1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(null, module.text_encoder.encode(["a red dress"]), atol=1e-2)


def test_projection_and_flow_are_trained_and_nothing_else() -> None:
    module = stages.flow()
    frozen = {"vae": module.latent_space, "backbone": module.text_encoder.language_model}
    before = {name: stages.weights(network) for name, network in frozen.items()}
    trained = {name: stages.weights(network) for name, network in module.exported.items()}
    stages.fit(module, steps=2)
    for name, network in frozen.items():
        assert not any(part.training for part in network.modules())
        after = stages.weights(network)
        assert all(torch.equal(after[key], before[name][key]) for key in after)
    for name, network in module.exported.items():
        after = stages.weights(network)
        assert sum(not torch.equal(after[key], trained[name][key]) for key in after) > len(after) / 2
    assert module.text_encoder.training
    assert module.flow_processor.training


def test_latents_are_normalised_by_the_statistics_of_the_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = stages.vae(statistics_images=40)
    stages.fit(autoencoder, steps=1)
    exported, space = autoencoder.exported_model(), autoencoder.latent_space
    mean, std = exported["latent_mean"], exported["latent_std"]
    assert (mean / std).abs().max() > 0.5, "not normal by themselves"
    module, seen = stages.flow(LatentSpace(space.compressor, space.expander, mean, std)), []
    add_noise = process.add_noise
    monkeypatch.setattr(process, "add_noise", lambda z0, *rest: seen.append(z0) or add_noise(z0, *rest))
    stages.fit(module, steps=21)
    tokens = torch.cat(seen[1:]).flatten(0, 1)  # of the images of the statistics, with other noise
    assert tokens.mean(dim=0).abs().max() < 0.1
    assert (tokens.std(dim=0) - 1).abs().max() < 0.1


class Oracle(nn.Module):
    """Knows z_0 and answers with the exact velocity: ε = (z_t − α·z_0) / σ, v = α·ε − σ·z_0."""

    def __init__(self, space: LatentSpace, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.packets: list[Tensor] = []
        self.times: list[Tensor] = []
        sample = space.sample

        def spied(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
            self.packets.append(sample(mean, logvar, eps))
            return self.packets[-1]

        monkeypatch.setattr(space, "sample", spied)

    def forward(self, packed: Tensor, text: Tensor, times: Tensor, latent_size: tuple[int, int]) -> Tensor:
        clean = self.packets[-1]
        assert torch.equal(packed[:, -1], clean[:, -1]), "the size token has no noise"
        assert latent_size == (4, 4)
        assert text.shape == (len(packed), pipelines.TEXT)
        timesteps = (times * 999).round().long()
        torch.testing.assert_close(times, timesteps / 999)
        self.times.append(timesteps)
        alpha, sigma = (table[timesteps][:, None, None] for table in by_hand.alpha_sigma())
        z0, zt = clean[:, :-1], packed[:, :-1]
        velocity = alpha * (zt - alpha * z0) / sigma - sigma * z0
        return torch.cat([velocity + self.weight, clean[:, -1:]], dim=1)


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_exact_velocity_has_no_loss(gamma: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = stages.flow(optimizer=stages.plain(0.0), min_snr_gamma=gamma)
    oracle = Oracle(module.latent_space, monkeypatch)
    module.flow_processor = oracle  # pyright: ignore[reportAttributeAccessIssue]
    metrics = stages.Metrics()
    trainer = stages.fit(module, metrics, steps=4, data=stages.Data(size=8), limit_val_batches=2, val_check_interval=4)
    assert max(metrics["train/loss"]) < 1e-7
    assert trainer.callback_metrics["val/loss"] < 1e-7
    assert torch.cat(oracle.times[:4]).unique().numel() > 20  # one time an image
    assert oracle.times[-1].tolist() == [62, 187, 312, 437, 562, 687, 812, 937]  # (i + ½)·1000 / 8


def test_a_constant_error_weighs_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """With min-SNR it weighs min(SNR, γ) / (SNR + 1) of that; validation never weighs."""
    for gamma in (None, 5.0):
        module = stages.flow(optimizer=stages.plain(0.0), min_snr_gamma=gamma)
        oracle, metrics = Oracle(module.latent_space, monkeypatch), stages.Metrics()
        oracle.weight.data.fill_(0.5)
        module.flow_processor = oracle  # pyright: ignore[reportAttributeAccessIssue]
        trainer = stages.fit(module, metrics, steps=1, limit_val_batches=1, val_check_interval=1)
        alpha, sigma = (table[oracle.times[0]] for table in by_hand.alpha_sigma())
        snr = alpha**2 / sigma**2
        weight = 1.0 if gamma is None else (snr.clamp(max=gamma) / (snr + 1)).mean().item()
        assert metrics["train/loss"] == pytest.approx([0.25 * weight], rel=1e-4)
        assert trainer.callback_metrics["val/loss"].item() == pytest.approx(0.25, rel=1e-4)


def test_validation_is_always_the_same() -> None:
    module, losses = stages.flow(optimizer=stages.plain(0.0)), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        trainer = stages.fit(module, steps=seed, limit_val_batches=2, val_check_interval=seed)
        losses.append(trainer.callback_metrics["val/loss"].item())
    assert losses[0] == losses[1]


def test_rates_follow_the_schedule_and_gradients_are_clipped() -> None:
    schedule, metrics = CosineSchedule(steps=4, warmup=2, minimum=0.1), stages.Metrics()
    module = stages.flow(optimizer=stages.plain(0.1), learning_rate=schedule, clip=1e-3)
    before = stages.weights(module)
    trainer = stages.fit(module, metrics, steps=4, accumulate_grad_batches=2)
    assert trainer.global_step == 4
    assert len(metrics.rows) == 8
    assert metrics.rows[-1]["step"] == 4
    rates = [row["train/lr"] for row in metrics.rows[1::2]]
    assert rates == pytest.approx([0.1 * schedule(step) for step in range(4)])
    moved = torch.cat([(p - before[n]).flatten() for n, p in module.named_parameters() if n in before])
    assert moved.norm() <= 1e-3 * sum(rates) * 1.05
    assert min(metrics["train/grad_norm"][1:]) > 1e-3


def test_the_exported_model_is_whole() -> None:
    mean, std = torch.randn(pipelines.D), torch.rand(pipelines.D) + 0.5
    module = stages.flow(LatentSpace(*pipelines.vae(), mean, std))
    exported: dict[str, Any] = module.exported_model()
    assert exported["text_encoder"] is module.text_encoder
    assert exported["flow_processor"] is module.flow_processor
    assert exported["compressor"] is module.latent_space.compressor
    assert exported["expander"] is module.latent_space.expander
    assert torch.equal(exported["latent_mean"], mean)
    assert torch.equal(exported["latent_std"], std)


def test_one_step_in_bfloat16() -> None:
    module, metrics = stages.flow(), stages.Metrics()
    before = stages.weights(module)
    stages.fit(module, metrics, steps=1, precision="bf16-mixed")
    assert all(math.isfinite(value) for value in metrics.rows[0].values())
    after = stages.weights(module)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert sum(not torch.equal(after[name], before[name]) for name in after) > len(after) / 2


def test_captions_that_are_cut_are_counted_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    module = stages.flow()
    module.text_encoder.tokenizer.model_max_length = 3  # with the marks of beginning and end one word
    stages.fit(module, steps=2)
    assert [record.getMessage() for record in caplog.records if "longer than" in record.getMessage()] == [
        "3 captions were longer than 3 tokens, of which the rest does not count."
    ]
