"""The latent cache as a source: what is written is read, draws are those of pictures, and stale caches are refused."""

import itertools
import json
import random
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fluxflow.data import DataModule, LatentDataModule
from fluxflow.data.images.buckets import Buckets
from fluxflow.data.images.transforms import Transform
from fluxflow.data.latents.cache import (
    LatentReader,
    LatentShard,
    LatentTransform,
    read_key,
    write_key,
    write_shard,
)
from fluxflow.data.latents.latent_datamodule import location
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import Record
from fluxflow.data.sources.shards import ShardReader
from fluxflow.data.streaming.streams import collate
from fluxflow.errors import ConfigError, DataError, FluxFlowError
from tests import nonsense
from tests.data.conftest import encoded, latents

TRAINING = LatentTransform(0.5, "random")


def opened(cache) -> LatentReader:
    reader = LatentReader(str(cache))
    reader.open()
    return reader


def module(cache, **options) -> LatentDataModule:
    data = LatentDataModule(str(cache), **({"transform": TRAINING, "batch_size": 2, "num_workers": 0} | options))
    data.setup()
    return data


@pytest.mark.parametrize("kind", ["features", "numbers"])
def test_words_are_kept_with_zeros_after_the_shorter_captions(tmp_path, kind):
    """Features of each word, or the numbers of tokens, which half precision would not hold."""
    generator, records = torch.Generator().manual_seed(0), []
    lengths = (5, 9, 7)
    for number, length in enumerate(lengths):
        text = torch.randn(1, length, 4, generator=generator).half().float()
        if kind == "numbers":
            text = torch.randint(1, 30000, (1, length), generator=generator)
        record = latents(3 + 2 * number)
        records.append(replace(record, captions=record.captions[:1], text=text, no_text=text[0, :2]))
    write_shard(tmp_path / "a.safetensors", records)
    shard = LatentShard(tmp_path / "a.safetensors")
    for index, (record, length) in enumerate(zip(records, lengths, strict=True)):
        found = shard.load(index)
        assert len(found.text[0]) == len(found.no_text) == 9
        assert torch.equal(found.text[0, :length].to(record.text.dtype), record.text[0])
        assert not found.text[0, length:].any()
    batch = collate([{"text": shard.load(0).text[0]}, {"text": records[0].text[0]}])
    assert batch["text"].shape[:2] == (2, 9)


def test_what_is_written_is_read(tmp_path):
    records = [latents(n) for n in (3, 4, 13, 15)]  # two sizes, one or two captions, with and without a mirror image
    write_shard(tmp_path / "a.safetensors", records)
    shard = LatentShard(tmp_path / "a.safetensors")
    assert list(shard.keys) == ["s3", "s4", "s13", "s15"]
    for index in (2, 0, 3, 1):
        found, record = shard.load(index), records[index]
        assert (found.key, found.captions, found.size, found.source) == (
            record.key, record.captions, record.size, record.source)  # fmt: skip
        assert (found.mirrored is None) == (record.mirrored is None)
        for a, b in zip(
            found.posterior + (found.mirrored or ()), record.posterior + (record.mirrored or ()), strict=True
        ):
            assert a.dtype == torch.bfloat16
            assert torch.equal(a.float(), b)
        assert torch.equal(found.text.float(), record.text)
        assert torch.equal(found.no_text.float(), record.no_text)
    write_shard(tmp_path / "b.safetensors", records)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_flips_and_captions_are_drawn_as_those_of_pictures():
    picture, cached = Transform(Buckets(8, 4), "center", 0.5, None, "random"), LatentTransform(0.5, "random")
    record = latents(1)
    source = Record(record.key, encoded(1, (8, 8)), record.captions)
    plain = Transform(Buckets(8, 4))(source, (8, 8), random.Random(0))["image"]
    seen = set()
    for draw in range(40):
        image = picture(source, (8, 8), random.Random(draw))
        latent = cached(record, cached.size(record), random.Random(draw))
        flipped = not torch.equal(image["image"], plain)
        assert latent["caption"] == image["caption"]
        assert torch.equal(latent["text"], record.text[record.captions.index(image["caption"])])
        assert record.mirrored is not None
        mean, logvar = record.mirrored if flipped else record.posterior
        assert torch.equal(latent["mean"], mean)
        assert torch.equal(latent["logvar"], logvar)
        seen.add((flipped, latent["caption"]))
    assert len(seen) == 4
    guarded = latents(5)
    assert guarded.mirrored is None
    assert all(torch.equal(LatentTransform(1.0)(guarded, (8, 8), random.Random(n))["mean"], guarded.posterior[0])
               for n in range(5))  # fmt: skip


def test_a_batch_holds_one_size_and_the_empty_caption(make_cache):
    data = module(make_cache(12, 9, 11), batch_size=3, val_samples=5)
    shapes = set()
    for batch in itertools.islice(data.train_dataloader(), 40):
        assert batch["mean"].shape == batch["logvar"].shape
        assert batch["text"].shape == batch["no_text"].shape == (3, 6)
        shapes.add(tuple(batch["mean"].shape))
    assert shapes == {(3, 4, 2, 2), (3, 4, 2, 3)}
    assert sum(len(batch["key"]) for batch in data.val_dataloader()) == 5
    assert data.image_size == 8


def test_caches_are_mixed_by_weight(make_cache):
    caches = {
        name: {"path": str(make_cache(40, folder=name)), "weight": weight} for name, weight in (("a", 3), ("b", 1))
    }
    with pytest.raises(ConfigError, match=r"name the one to validate on, data\.val="):
        LatentDataModule(sources=caches, transform=TRAINING, batch_size=4)
    val = f"{caches['a']['path']}/val"
    data = LatentDataModule(sources=caches, val=val, transform=TRAINING, batch_size=4, num_workers=0)
    data.setup()
    state = next(itertools.islice(data.train_dataloader(), 19, None))["state"]["workers"][0]
    assert state["cursors"]["a"]["progress"] == pytest.approx(3 * state["cursors"]["b"]["progress"], rel=0.2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda cache: (cache / "key.json").unlink(), "There is no cache of latents in"),
        (lambda cache: (cache / "train" / "index.json").unlink(), "is not encoded to its end"),
        (lambda cache: (cache / "train" / "00000-000.safetensors").unlink(), r"00000-000\.safetensors is missing"),
        (lambda cache: (cache / "train" / "00001-000.safetensors").write_bytes(b""), "is 0 bytes long, not"),
        (lambda cache: write_key(cache, read_key(cache) | {"format": 0}), "another version of FluxFlow"),
    ],
)
def test_what_is_no_whole_cache_is_refused(make_cache, spoil, message):
    cache = make_cache(3, 2)
    spoil(cache)
    with pytest.raises(DataError, match=message):
        module(cache)


def test_a_damaged_shard_is_named(make_cache):
    cache = make_cache(3)
    shard = cache / "train" / "00000-000.safetensors"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    with pytest.raises(DataError, match=r"00000-000\.safetensors is no shard of a cache, or damaged"):
        next(iter(module(cache).train_dataloader()))


def test_flips_without_mirror_images_are_refused(make_cache):
    cache = make_cache(3, mirrored=False)
    with pytest.raises(ConfigError, match=r"holds no mirror images: take data\.transform\.flip=0, or encode again"):
        module(cache)
    assert module(cache, transform=LatentTransform(0.0)).readers


@pytest.mark.parametrize(("vae", "text", "message"), [
    ("w" * 64, "t" * 64, r"the VAE \(sha256 vvvvvvvvvvvv… → wwwwwwwwwwww…\) differs"),
    ("v" * 64, "u" * 64, r"the text encoder \(sha256 t+… → u+…\) differs"),
    ("w" * 64, "u" * 64, r"the VAE .* and the text encoder .* differs"),
])  # fmt: skip
def test_other_networks_are_refused(make_cache, vae, text, message):
    data = module(make_cache(3))
    data.check_networks("v" * 64, "t" * 64)
    with pytest.raises(DataError, match=message):
        data.check_networks(vae, text)


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_a_source_that_changed_is_refused_and_one_that_is_gone_is_not(make_cache, make_folder, make_shards, kind):
    cache, path = make_cache(3), make_folder(3) if kind == "folder" else make_shards(3)
    reader = (FolderReader if kind == "folder" else ShardReader)(str(path))
    reader.open()
    there = {"source": {"train": reader.fingerprint()}, "locations": {"train": location(reader)}}
    write_key(cache, read_key(cache) | there)
    module(cache)
    if kind == "folder":
        Image.new("RGB", (9, 9)).save(path / "new.png")
    else:
        make_shards(4)
    with pytest.raises(DataError, match=rf"{kind} .* has changed since .* was encoded from it: encode it again"):
        module(cache)
    path.rename(path.with_name("elsewhere"))
    module(cache)


def test_the_fingerprint_tells_caches_apart_and_not_where_they_lie(make_cache):
    cache, other = make_cache(3, 4), make_cache(3, 4, folder="other", mirrored=False)
    before = opened(cache).fingerprint()
    assert opened(other).fingerprint() != before
    assert opened(cache.rename(cache.with_name("moved"))).fingerprint() == before


def test_the_state_of_a_run_knows_that_it_trains_from_latents(make_cache):
    data = module(make_cache(9))
    assert "latents, flip 0.5, random caption" in data._identity()["settings"]["transform"]
    assert isinstance(data, DataModule)


def batches(cache) -> list:
    data = module(cache)
    data.check_networks("v" * 64, "t" * 64)
    return list(itertools.islice(data.train_dataloader(), 3)) + list(data.val_dataloader())


@pytest.mark.parametrize("file", ["key.json", "train/index.json"])
def test_nonsense_in_a_cache_is_refused_or_does_not_matter(make_cache, file):
    cache, failures = make_cache(3, 2), []
    there = {"reader": "FolderReader", "arguments": {"root": "nowhere"}}
    write_key(cache, read_key(cache) | {"source": {"train": "sha"}, "locations": {"train": there}})
    for name, content in nonsense.spoiled(json.loads((cache / file).read_text())):
        nonsense.write(cache / file, content)
        try:
            batches(cache)
        except FluxFlowError:
            continue
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__} {error}")
    assert not failures, "\n".join(failures)


def test_nonsense_about_the_samples_of_a_shard_is_refused_or_does_not_matter(tmp_path):
    path, failures = tmp_path / "a.safetensors", []
    write_shard(path, [latents(n) for n in (3, 4)])
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        samples = json.loads(file.metadata()["samples"])
    for name, content in nonsense.spoiled({"samples": samples}):
        save_file(tensors, path, metadata={"samples": json.dumps(content.get("samples"))})
        try:
            shard = LatentShard(path)
            for index in range(len(shard.keys)):
                LatentTransform(0.5)(shard.load(index), (8, 8), random.Random(0))
        except DataError:
            continue
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__} {error}")
    assert not failures, "\n".join(failures)
