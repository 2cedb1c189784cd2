"""The encoding: what it caches is what training from pictures would have computed, whoever did it and when."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Fabric
from torch import Tensor

from fluxflow.data import DataModule, LatentDataModule, ShapesReader
from fluxflow.data.latents import cache as latents
from fluxflow.data.latents.cache import LatentShard
from fluxflow.data.latents.encoder import LatentEncoder
from fluxflow.data.sources.shards import ShardReader
from fluxflow.errors import ConfigError, DataError
from fluxflow.kernels.conv import to_signed
from fluxflow.models import LatentSpace
from fluxflow.training import FlowLitModule
from tests import pipelines
from tests.data.conftest import encoded
from tests.data.sources import sized
from tests.training import stages

ROOT = Path(__file__).parents[2]
CPU = {"accelerator": "cpu", "devices": 1}
TRAINING = latents.LatentTransform(0.5, "random")
SIZES = ((24, 24), (40, 20), (20, 36))  # width and height


def write(folder: Path, *sizes: int, split: str = "train", bad: int | None = None) -> None:
    """Shards of pictures of three shapes; every fifth caption forbids a flip."""
    import tarfile
    from io import BytesIO

    (folder / split).mkdir(parents=True)
    number = 0
    for shard, size in enumerate(sizes):
        with tarfile.open(folder / split / f"{shard:02d}.tar", "w") as tar:
            for _ in range(size):
                caption = stages.CAPTIONS[number % 9] + (" from the left" if number % 5 == 0 else "")
                content = b"no picture" if number == bad else encoded(number, SIZES[number % 3], "PNG")
                for suffix, data in (("png", content), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{split}{number}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, BytesIO(data))
                number += 1


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    write(folder, 9, 8, 7)
    write(folder, 8, split="val")
    return folder


def pictures(
    shards: Path, *, val_batch_size: int | None = None, num_workers: int = 0, rejected: str | None = None, **sizes: Any
) -> DataModule:
    sizes = {"image_size": 16, "multiple": 4, "max_aspect": 2, "crop": "center"} | sizes
    return DataModule(ShardReader, f"{shards}/train", f"{shards}/val", **sized(**sizes), batch_size=3, seed=5,
                      val_batch_size=val_batch_size, num_workers=num_workers, rejected=rejected)  # fmt: skip


def cached(cache: Path, **options: Any) -> LatentDataModule:
    return LatentDataModule(str(cache), **({"transform": TRAINING, "batch_size": 3, "seed": 5} | options))


def networks() -> FlowLitModule:
    """The same whenever it is called."""
    mean, std = torch.linspace(-1, 1, pipelines.D), torch.linspace(0.5, 2, pipelines.D)
    return stages.flow(LatentSpace(*pipelines.vae(), mean, std), optimizer=stages.plain(0.05), caption_dropout=0.3)


def encode(data: DataModule, folder: Path, shard_samples: int = 1024) -> Path:
    module = networks()
    LatentEncoder(module.latent_space, module.text_encoder, str(folder), shard_samples).run(data, Fabric(**CPU))
    return folder


def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "LATENT_TYPE", torch.float32)
    monkeypatch.setattr(latents, "TEXT_TYPE", torch.float32)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Keys(stages.Metrics):
    """Also the samples of each batch."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *rest: Any) -> None:
        super().on_train_batch_end(trainer)
        self.keys = [*getattr(self, "keys", []), (batch["key"], batch["caption"])]


def fit(data: Any, steps: int = 24) -> tuple[Keys, dict[str, Tensor], float]:
    seen, module = Keys(), networks()
    trainer = stages.fit(module, seen, steps=steps, data=data, limit_val_batches=None, val_check_interval=steps)
    return seen, stages.weights(module), trainer.callback_metrics["val/loss"].item()


def test_training_from_an_exact_cache_is_training_from_pictures(shards, tmp_path, monkeypatch) -> None:
    """Flips, captions, dropout, noise and batches of several sizes included; they differ by rounding alone."""
    exact(monkeypatch)
    seen, weights, validation = fit(pictures(shards))
    assert len({key for keys, _ in seen.keys for key in keys}) == 24
    found, found_weights, found_validation = fit(cached(encode(pictures(shards), tmp_path / "cache")))
    assert found.keys == seen.keys
    assert found["train/loss"] == pytest.approx(seen["train/loss"], rel=1e-4)
    for name in weights:
        torch.testing.assert_close(found_weights[name], weights[name], rtol=1e-3, atol=1e-5)
    assert found_validation == pytest.approx(validation, rel=1e-4)


def test_validation_differs_by_the_rounding_of_the_posterior_alone(shards, tmp_path, monkeypatch) -> None:
    """Pictures whose posteriors and features are rounded by hand give the loss of the cache; and the rounding, half a
    unit in the 8th bit of each latent and the 11th of each feature, moves a loss by no more than twice the share of
    its root that it moves: 2 · 2⁻⁸."""
    cache = encode(pictures(shards), tmp_path / "cache")
    _, _, validation = fit(cached(cache), steps=1)
    _, _, plain = fit(pictures(shards), steps=1)
    posterior, features = LatentSpace.posterior, type(networks().text_encoder).caption_features
    monkeypatch.setattr(LatentSpace, "posterior",
                        lambda self, image: tuple(x.bfloat16().float() for x in posterior(self, image)))  # fmt: skip
    monkeypatch.setattr(type(networks().text_encoder), "caption_features",
                        lambda self, captions: features(self, captions).half().float())  # fmt: skip
    _, _, rounded = fit(pictures(shards), steps=1)
    assert validation == pytest.approx(rounded, rel=1e-4)
    assert validation == pytest.approx(plain, rel=2**-7)
    assert validation != plain


def test_mirrored_posteriors_are_those_of_mirrored_pictures(shards, tmp_path, monkeypatch) -> None:
    exact(monkeypatch)
    data, space = pictures(shards), networks().latent_space
    cache = encode(data, tmp_path / "cache")
    shard, source = LatentShard(cache / "train" / "00000-000.safetensors"), data.val_transform
    originals = data.sources["train"].reader.open_shard(0)
    import random

    for index in range(9):
        record, original = shard.load(index), originals.load(index)
        assert (record.key, record.captions) == (original.key, original.captions)
        assert record.source == str(shards / "train" / "00.tar")
        assert record.size == source.size(original)
        image = to_signed(source(original, record.size, random.Random(0))["image"][None])
        torch.testing.assert_close(record.posterior, tuple(x[0] for x in space.posterior(image)), rtol=1e-4, atol=1e-5)
        if "left" in original.captions[0]:
            assert record.mirrored is None
            continue
        assert record.mirrored is not None
        expected = tuple(x[0] for x in space.posterior(image.flip(-1)))
        torch.testing.assert_close(record.mirrored, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(expected[0], record.posterior[0].flip(-1), atol=1e-2), "not the mirrored latent"


def test_no_flips_no_mirror_images_and_a_random_crop_becomes_central(shards, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    centre = encode(pictures(shards, flip=0.0), tmp_path / "centre")
    crop = encode(pictures(shards, flip=0.0, crop="random"), tmp_path / "random")
    assert "a cache holds one crop of each picture, here the one in the centre" in caplog.text
    assert files(centre) == files(crop)
    assert LatentShard(centre / "train" / "00000-000.safetensors").load(1).mirrored is None
    with pytest.raises(ConfigError, match="holds no mirror images"):
        cached(centre).setup()


def test_chunks_and_workers_leave_every_sample_in_its_order(shards, tmp_path) -> None:
    one = encode(pictures(shards, val_batch_size=2), tmp_path / "one", shard_samples=4)
    other = encode(pictures(shards, val_batch_size=2, num_workers=2), tmp_path / "other", shard_samples=4)
    assert files(one) == files(other)
    names = sorted(path.name for path in (one / "train").glob("*.safetensors"))
    assert names == [f"{p:05d}-{c:03d}.safetensors" for p, count in enumerate((3, 2, 2)) for c in range(count)]
    keys = [key for name in names for key in LatentShard(one / "train" / name).keys]
    assert keys == [f"train{number}" for number in range(24)]


def test_a_held_out_split_is_that_of_the_pictures(shards, tmp_path) -> None:
    def held_out() -> DataModule:
        return DataModule(ShardReader, f"{shards}/train", **sized(16, 4), batch_size=3, val_fraction=0.3)

    data, cache = held_out(), cached(encode(held_out(), tmp_path / "cache"))
    data.setup()
    cache.setup()
    keys = [[key for batch in module.val_dataloader() for key in batch["key"]] for module in (data, cache)]
    assert keys[0] == keys[1]
    assert len(keys[0]) > 3


def test_bad_samples_are_counted_and_left_out(tmp_path) -> None:
    write(tmp_path / "shards", 9, bad=4)
    write(tmp_path / "shards", 3, split="val")
    data = pictures(tmp_path / "shards", rejected=str(tmp_path / "rejected.jsonl"))
    cache = encode(data, tmp_path / "cache")
    assert list(LatentShard(cache / "train" / "00000-000.safetensors").keys) == [
        f"train{n}" for n in range(9) if n != 4
    ]
    assert '"train4"' in (tmp_path / "rejected.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shards: pictures(shards, image_size=20), r"the transform \(image_size 16 → 20, sizes .*\) differs"),
        (lambda shards: pictures(shards, flip=0.0), r"the transform \(mirrored true → false\) differs"),
        (lambda shards: pictures(shards, flip_guard=["red"]), r"the transform \(flip_guard .* → unless red\) differs"),
        (lambda shards: pictures(shards, caption_prefix="a photo,"), r"the transform \(caption_prefix  → a photo,\)"),
        (lambda shards: (write(shards, 2, split="more"), pictures(shards))[1], ""),
        (lambda shards: DataModule(ShardReader, f"{shards}/val", f"{shards}/val", **sized(16, 4, 2), batch_size=3),
         r"the source \(train .* → .*\) differs"),
    ],
)  # fmt: skip
def test_a_folder_that_holds_another_cache_is_refused(shards, tmp_path, change: Callable, message: str) -> None:
    cache = encode(pictures(shards), tmp_path / "cache")
    before = files(cache)
    if message:
        with pytest.raises(DataError, match=f"holds a cache of something else: {message}"):
            encode(change(shards), cache)
    else:
        encode(change(shards), cache)
    assert files(cache) == before


def test_a_flow_refuses_the_cache_of_another_vae_or_text_encoder(shards, tmp_path) -> None:
    cache = encode(pictures(shards), tmp_path / "cache")
    other = stages.flow(LatentSpace(*pipelines.vae(seed=3)))
    with pytest.raises(DataError, match=r"encoded with something else: the VAE \(sha256 .*differs\. Encode again"):
        stages.fit(other, steps=1, data=cached(cache))
    other = networks()
    other.text_encoder.padded_length = 9
    with pytest.raises(DataError, match=r"encoded with something else: the text encoder \(sha256 .*differs"):
        stages.fit(other, steps=1, data=cached(cache))


def test_shapes_are_encoded_and_another_set_of_them_is_refused(tmp_path) -> None:
    reader = partial(ShapesReader, image_size=16, samples=9, val_samples=4)
    options = sized(16, multiple=4, crop="center", flip=0.0)
    cache = encode(DataModule(reader, "train", "val", **options, batch_size=3), tmp_path / "cache")
    unflipped = latents.LatentTransform(0.0, "random")
    data = cached(cache, transform=unflipped)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    captions = {f"train-{index:07d}": reader("train").sample(index)[1] for index in range(9)}
    assert all(caption in captions[key] for key, caption in zip(batch["key"], batch["caption"]))
    key = json.loads((cache / latents.KEY).read_text())
    key["locations"]["train"]["arguments"]["seed"] = 1
    (cache / latents.KEY).write_text(json.dumps(key))
    with pytest.raises(DataError, match="shapes train has changed since"):
        cached(cache, transform=unflipped).setup()


def command(shards: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.training.test_encode", str(shards), str(folder)]


def test_a_killed_run_goes_on_to_the_same_files(shards, tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = os.environ | {"SLOWLY": "0.05", "PYTHONPATH": str(ROOT)}
    rng = np.random.default_rng(0)
    for files_there in sorted(rng.choice(range(1, 13), 3, replace=False)):
        process = subprocess.Popen(command(shards, killed), cwd=ROOT, env=environment)
        while len(list(killed.rglob("*.safetensors"))) < files_there and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (killed / "val" / "index.json").exists()
        with pytest.raises(DataError, match="not encoded to its end"):
            cached(killed).setup()
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*.safetensors")}
    (killed / "train" / "00000-000.part").write_bytes(b"half a file")
    for folder in (killed, whole):
        subprocess.run(command(shards, folder), cwd=ROOT, env=environment | {"SLOWLY": "0"}, check=True)
    (killed / "train" / "00000-000.part").unlink(missing_ok=True)
    assert files(killed) == files(whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was there is not done again"


@pytest.mark.slow  # processes of their own
def test_two_ranks_write_the_files_of_one(shards, tmp_path) -> None:
    stages.run_two_ranks(command(shards, tmp_path / "two"), timeout=300, RANKS="2", PYTHONPATH=str(ROOT))
    alone = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command(shards, tmp_path / "one"), cwd=ROOT, env=alone, check=True)
    assert files(tmp_path / "two") == files(tmp_path / "one")


def main(shards: Path, folder: Path) -> None:
    """Encode as a process of its own, slowly where it is to be killed."""
    module, pause = networks(), float(os.environ.get("SLOWLY", "0"))
    posterior = module.latent_space.posterior
    module.latent_space.posterior = lambda image: (time.sleep(pause), posterior(image))[1]
    hardware = {"strategy": "ddp", "devices": 2} if os.environ.get("RANKS") else {"devices": 1}
    encoder = LatentEncoder(module.latent_space, module.text_encoder, str(folder), shard_samples=2)
    encoder.run(pictures(shards, val_batch_size=2), Fabric(accelerator="cpu", **hardware))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
