"""Batches of several shapes, as aspect-ratio buckets give them: training, previews and sampling."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from fluxflow.models import LatentSpace
from fluxflow.models.packet import latent_size_of
from fluxflow.training import EMA
from fluxflow.training.callbacks.previews import Reconstructions, Samples
from tests import pipelines
from tests.training import stages

SIZES = [(32, 48), (48, 32), (40, 40)]


class Shapes(IterableDataset):
    """Batches that change their size in turn; endless, or one of each."""

    def __init__(self, endless: bool) -> None:
        self.endless = endless

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(10**6 if self.endless else len(SIZES)):
            batch = stages.batch(number)
            resized = nn.functional.interpolate(batch["image"].float(), SIZES[number % len(SIZES)]).to(torch.uint8)
            yield batch | {"image": resized.contiguous(memory_format=torch.channels_last)}


class Data(stages.Data):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(Shapes(endless=True), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Shapes(endless=False), batch_size=None)


@pytest.mark.parametrize(("stage", "name"), [("vae", "train/l1_mse"), ("flow", "train/loss")])
def test_stages_train_validate_and_draw_at_every_size(stage: str, name: str, tmp_path: Path) -> None:
    module, metrics = stages.STAGES[stage](), stages.Metrics()
    previews = (Reconstructions if stage == "vae" else Samples)(tmp_path, every=3, count=5)
    options = {"limit_val_batches": 3, "val_check_interval": 3}
    trainer = stages.fit(module, EMA(), metrics, previews, steps=6, data=Data(), **options)
    assert len(metrics[name]) == 6
    assert np.isfinite(metrics[name]).all()
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    assert {tuple(image.shape[1:]) for image in previews.images} == set(SIZES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000003.png", "step_000006.png"]


def test_flow_learns_from_packets_whose_size_token_holds_the_true_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = stages.flow(), []
    forward = module.flow_processor.forward

    def watched(packed: torch.Tensor, *arguments: Any) -> torch.Tensor:
        seen.append((latent_size_of(packed, module.latent_space.max_hw), arguments[-1]))
        return forward(packed, *arguments)

    monkeypatch.setattr(module.flow_processor, "forward", watched)
    stages.fit(module, steps=3, data=Data())
    assert seen == [((height // 4, width // 4),) * 2 for height, width in SIZES]


def test_the_rows_and_columns_of_a_packet_are_not_confused() -> None:
    """A picture that is bright in its lower half alone, and its transpose: the tokens change across the edge alone."""
    compressor, expander = pipelines.vae()
    image = torch.full((1, 3, 32, 48), -1.0)
    image[:, :, 16:] = 1.0
    for picture, size in ((image, (8, 12)), (image.transpose(2, 3).contiguous(), (12, 8))):
        packed = compressor(picture, eps=torch.zeros(1, pipelines.D, *size))
        assert latent_size_of(packed, compressor.max_hw) == size
        assert expander(packed).shape == picture.shape
        tokens = packed[0, :-1].unflatten(0, size)
        along, across = (0, 1) if size == (8, 12) else (1, 0)
        halves = tokens.mean(dim=across).chunk(2)
        spread = tokens.mean(dim=along).std(dim=0).mean()
        assert (halves[0] - halves[1]).abs().mean() > 2 * spread


def test_samples_of_any_shape_carry_it_in_their_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, seen = pipelines.pipeline(), []
    decode = LatentSpace.decode
    monkeypatch.setattr(LatentSpace, "decode", lambda space, *given: seen.append(given[0]) or decode(space, *given))
    for height, width in SIZES:
        drawn = pipeline("a red dress", height=height, width=width, num_inference_steps=2).images[0]
        assert drawn.size == (width, height)
    assert [latent_size_of(packed, pipeline.compressor.max_hw) for packed in seen] == [(8, 12), (12, 8), (10, 10)]
