"""The latent cache: what the frozen networks of stage 2 make of pictures and captions, computed once.

A cache is a folder that `python -m fluxflow.data.encode` writes:

    key.json                      VAE, text encoder, transform and source, on which all else depends
    train/index.json              the shards of a split, written when all of them are there
    train/00000-000.safetensors   shard and chunk of the source

A shard holds, for each latent size, rows of `mean.HxW` and `logvar.HxW` [n, D, h, w] (a picture and, where it may be
flipped, its mirror image, which is not the mirror image of the latent), a row of `text` a caption, and `no_text` of the
empty caption. Where each word has features, a row is as long as the longest caption of the shard. The header lists the
samples in stored order.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fluxflow.data.images.captions import CaptionRule
from fluxflow.data.sources.records import Record
from fluxflow.data.streaming.streams import Example, alike
from fluxflow.errors import ConfigError, DataError
from fluxflow.files import replacing
from fluxflow.formats import CACHE_INDEX, CACHE_KEY, CACHE_SAMPLES
from fluxflow.schema import check, fields, read_json

FORMAT = 1  # to be raised with every change of these files, or of how pictures are decoded and resized
LATENT_TYPE = torch.bfloat16
TEXT_TYPE = torch.float16  # three bits more than bfloat16 for what is a tenth of a cache; the features are near 1
KEY, INDEX, SUFFIX = "key.json", "index.json", ".safetensors"


@dataclass(frozen=True)
class LatentRecord(Record):
    """One sample of a cache; it has no picture.

    Args:
        size: height and width of its picture in pixels.
        posterior: mean and log σ², [D, h, w] each.
        mirrored: the same of its mirror image; None where it must not be flipped.
        text: features of its captions, [captions, …], as the text encoder makes them.
        no_text: features of the empty caption.
        source: the shard or folder in which its picture lies.
    """

    size: tuple[int, int] = (0, 0)
    posterior: tuple[torch.Tensor, ...] = ()
    mirrored: tuple[torch.Tensor, ...] | None = None
    text: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    no_text: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    source: str = ""


@dataclass(frozen=True)
class _Entry:
    """A sample in the header of a shard: rows of the tensors of its latent size, its captions' first row of `text`."""

    key: str
    captions: list[str]
    size: list[int]
    latent: str
    row: int
    mirrored: int | None
    text: int
    source: str


def write_shard(path: Path, records: Sequence[LatentRecord]) -> None:
    """Write records to a shard, whose bytes depend on them alone; a killed writer leaves none."""
    rows: dict[str, list[tuple[torch.Tensor, ...]]] = {}
    entries, texts = [], 0
    for record in records:
        latent = "x".join(map(str, record.posterior[0].shape[1:]))
        column = rows.setdefault(latent, [])
        mirrored = None if record.mirrored is None else len(column) + 1
        entry = _Entry(record.key, list(record.captions), list(record.size), latent, len(column), mirrored, texts,
                       record.source)  # fmt: skip
        column += [record.posterior] if record.mirrored is None else [record.posterior, record.mirrored]
        texts += len(record.captions)
        entries.append(asdict(entry))
    *text, no_text = alike([*(row for record in records for row in record.text), records[0].no_text])
    kind = TEXT_TYPE if no_text.is_floating_point() else torch.int32
    tensors = {"text": torch.stack(text).to(kind), "no_text": no_text.to(kind)}
    for latent, column in rows.items():
        for name, values in zip(("mean", "logvar"), zip(*column, strict=True), strict=True):
            tensors[f"{name}.{latent}"] = torch.stack(values).to(LATENT_TYPE)
    with replacing(path) as file:
        file.write(save(tensors, metadata={"samples": json.dumps(entries)}))  # two keys would come in any order


class LatentShard:
    """One open shard of a cache.

    Args:
        path: the file.

    Raises:
        DataError: if it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
            entries = json.loads((self._file.metadata() or {})["samples"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"{path} is no shard of a cache, or damaged ({error}): remove it and repeat the command "
                            "that encoded it.") from error  # fmt: skip
        check({"samples": entries}, fields({"samples": CACHE_SAMPLES}), path, DataError)
        self._entries = [_Entry(**entry) for entry in entries]
        self._check_rows()
        self._no_text = self._file.get_tensor("no_text")

    def _check_rows(self) -> None:
        """Refuse samples that point outside the tensors."""
        shapes = {name: self._file.get_slice(name).get_shape() for name in self._file.keys()}  # noqa: SIM118
        texts, no_text = shapes.get("text", [0]), shapes.get("no_text", [])
        for entry in self._entries:
            last = max(entry.row, -1 if entry.mirrored is None else entry.mirrored)
            maps = [shapes.get(f"{name}.{entry.latent}", [0]) for name in ("mean", "logvar")]
            fits = all(last < shape[0] and "x".join(map(str, shape[2:])) == entry.latent for shape in maps)
            if not fits or entry.text + len(entry.captions) > texts[0] or no_text != texts[1:]:
                raise DataError(f"{self.path}: sample {entry.key!r} does not fit the tensors: remove the file and "
                                "repeat the command that encoded it.")  # fmt: skip

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def keys(self) -> Sequence[str]:
        return [entry.key for entry in self._entries]

    def load(self, index: int) -> LatentRecord:
        entry = self._entries[index]
        end = entry.text + len(entry.captions)
        return LatentRecord(
            entry.key,
            captions=tuple(entry.captions),
            size=(entry.size[0], entry.size[1]),
            posterior=self._posterior(entry.latent, entry.row),
            mirrored=None if entry.mirrored is None else self._posterior(entry.latent, entry.mirrored),
            text=self._file.get_slice("text")[entry.text : end],
            no_text=self._no_text,
            source=entry.source,
        )

    def close(self) -> None:
        """The file is unmapped when nobody holds it any more."""
        del self._file

    def _posterior(self, latent: str, row: int) -> tuple[torch.Tensor, ...]:
        return tuple(self._file.get_slice(f"{name}.{latent}")[row : row + 1][0] for name in ("mean", "logvar"))


class LatentReader:
    """Reads records from a split of a cache.

    Args:
        path: the folder that `fluxflow.data.encode` wrote, of which the training split is read, or one of its splits.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        self.key: dict[str, Any] = {}
        self._shards: list[dict[str, Any]] = []

    def __str__(self) -> str:
        return f"latents {self.path}"

    def open(self) -> None:
        """Read key and index. Raises DataError if there is no finished cache, or a shard of it has changed."""
        folder = self.path if (self.path / INDEX).is_file() else self.path / "train"
        self.key = read_key(folder.parent)
        if not (folder / INDEX).is_file():
            raise DataError(f"{folder} is not encoded to its end: repeat the command that began it, with its name=.")
        self._shards = read_json(folder / INDEX, CACHE_INDEX, DataError)["shards"]
        for shard in self._shards:
            path = folder / shard["name"]
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                found = "missing" if size is None else f"{size} bytes long, not {shard['bytes']}"
                raise DataError(f"{path} is {found}: remove {folder / INDEX} and repeat the command that encoded it.")
        self._folder = folder

    def shard_count(self) -> int:
        return len(self._shards)

    def open_shard(self, number: int) -> LatentShard:
        return LatentShard(self._folder / self._shards[number]["name"])

    def fingerprint(self) -> str:
        """Of the key and the index: what lies in the shards is a function of the key."""
        key = {name: value for name, value in self.key.items() if name != "locations"}
        return hashlib.sha256(json.dumps([key, self._shards]).encode()).hexdigest()


def write_index(paths: Sequence[Path]) -> dict[str, Any]:
    """Write, beside the shards of a split, that these are all of them; returns what it says."""
    rows = [{"name": p.name, "samples": len(LatentShard(p).keys), "bytes": p.stat().st_size} for p in paths]
    index = {"samples": sum(row["samples"] for row in rows), "bytes": sum(row["bytes"] for row in rows), "shards": rows}
    _write_json(paths[0].with_name(INDEX), index)
    return index


def write_key(folder: Path, key: Mapping[str, Any]) -> None:
    """Begin a cache."""
    _write_json(folder / KEY, key)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def read_key(folder: Path) -> dict[str, Any]:
    """What a cache depends on. Raises DataError if there is none, or one of another format."""
    path = folder / KEY
    if not path.is_file():
        raise DataError(f"There is no cache of latents in {folder}: data.train= names a folder that "
                        "python -m fluxflow.data.encode wrote.")  # fmt: skip
    key = read_json(path, error=DataError)
    if key.get("format") != FORMAT:
        raise DataError(f"{folder} was encoded by another version of FluxFlow (format {key.get('format')!r:.20}, not "
                        f"{FORMAT}): encode again.")  # fmt: skip
    check(key, CACHE_KEY, path, DataError)
    return key


def changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What of a cache's key is another one now, in words: the VAE, the text encoder, the transform, the source."""
    names = {"vae": "the VAE", "text": "the text encoder", "transform": "the transform", "source": "the source"}
    found = []
    for name, words in names.items():
        if name not in here or there[name] == here[name]:
            continue
        if isinstance(there[name], dict):
            keys = [key for key in here[name] if there[name].get(key) != here[name][key]]
            words += (
                f" ({', '.join(f'{key} {_short(there[name].get(key))} → {_short(here[name][key])}' for key in keys)})"
            )
        else:
            words += f" (sha256 {there[name][:12]}… → {here[name][:12]}…)"
        found.append(words)
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


class LatentTransform:
    """Makes examples of cached records, with the draws that transforms.Transform would make of their pictures.

    Args:
        flip: probability of the mirror image, where the cache has it, in [0, 1].
        caption_rule: which of several captions is taken: "random", "first" or "longest".
    """

    def __init__(self, flip: float = 0.0, caption_rule: str = "first") -> None:
        if not 0 <= flip <= 1:
            raise ConfigError(f"data.transform.flip is {flip}: it is a probability, from 0 to 1")
        self.flip, self.caption_rule = flip, CaptionRule(caption_rule)

    def __repr__(self) -> str:
        return f"latents, flip {self.flip:g}, {self.caption_rule}"

    def for_validation(self) -> "LatentTransform":
        """No mirror image, and the first caption."""
        return LatentTransform()

    def size(self, record: Record) -> tuple[int, int]:
        assert isinstance(record, LatentRecord)
        return record.size

    def __call__(self, record: Record, size: tuple[int, int], rng: random.Random) -> Example:
        """Record → {"mean", "logvar" [D, h, w], "text", "no_text", "caption", "key"}."""
        assert isinstance(record, LatentRecord)
        _, _, flip, choice = (rng.random() for _ in range(4))
        mirrored = record.mirrored if flip < self.flip else None
        mean, logvar = mirrored or record.posterior
        caption = self.caption_rule(record.captions, choice)
        text = record.text[record.captions.index(caption)]
        return {"mean": mean, "logvar": logvar, "text": text, "no_text": record.no_text, "caption": caption,
                "key": record.key}  # fmt: skip
