import time

import pytest
from torch.utils.data import DataLoader

from fluxflow.training.callbacks import Throughput
from tests.training.callbacks import standin


class SlowPixels(standin.Pixels):
    def __getitem__(self, index: int) -> dict:
        time.sleep(0.005)
        return super().__getitem__(index)


class SlowData(standin.Data):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(SlowPixels(), batch_size=4)


def test_a_slow_source_shows_as_waiting() -> None:
    trainer = standin.trainer(Throughput(every=2), val_every=100)
    trainer.fit(standin.Module(), SlowData())
    assert trainer.callback_metrics["speed/waiting_for_data"] > 0.5
    assert 20 < trainer.callback_metrics["speed/images_per_second"] < 4 / 0.02


def test_the_share_is_a_share() -> None:
    trainer = standin.trainer(Throughput(every=2))
    trainer.fit(standin.Module(), standin.Data())
    assert 0 <= trainer.callback_metrics["speed/waiting_for_data"] == pytest.approx(0.5, abs=0.5)
