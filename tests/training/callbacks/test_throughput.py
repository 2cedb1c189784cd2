import time

import pytest
from torch.utils.data import DataLoader

from fluxflow.training.callbacks.throughput import Throughput
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


class Slow(standin.Callback):
    def on_train_batch_end(self, *_: object) -> None:
        time.sleep(0.05)


def test_what_comes_between_two_steps_counts_for_no_time() -> None:
    trainer = standin.trainer(Throughput(every=2), Slow(), val_every=100)
    trainer.fit(standin.Module(), standin.Data())
    assert trainer.callback_metrics["speed/images_per_second"] > 4 / 0.05


def test_operations_count_for_the_time_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxflow.training.callbacks.throughput.device_peak", lambda device, half: 1e6)
    trainer = standin.trainer(Throughput(every=2), val_every=100)
    trainer.fit(standin.Module(), standin.Data())
    speed = {name.removeprefix("speed/"): value.item() for name, value in trainer.callback_metrics.items()}
    assert speed["tflops"] * 1e12 == pytest.approx(1000 * speed["images_per_second"], rel=1e-3)
    assert speed["mfu"] == pytest.approx(speed["tflops"] * 1e6, rel=1e-3)
    assert 0.05 < speed["peak_memory_gb"] < 100


def test_a_device_of_unknown_speed_has_no_share_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxflow.training.callbacks.throughput.device_peak", lambda device, half: None)
    trainer = standin.trainer(Throughput(every=2), val_every=100)
    trainer.fit(standin.Module(), standin.Data())
    assert "speed/mfu" not in trainer.callback_metrics
    assert "speed/tflops" in trainer.callback_metrics


def test_the_share_is_a_share() -> None:
    trainer = standin.trainer(Throughput(every=2))
    trainer.fit(standin.Module(), standin.Data())
    assert 0 <= trainer.callback_metrics["speed/waiting_for_data"] == pytest.approx(0.5, abs=0.5)
