"""Which values a key may have: their kind by an annotation, numbers by their bounds; without torch."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fluxflow.errors import ConfigError, shorten

ABOVE_0 = math.nextafter(0, 1)
LARGEST = 2**53  # up to here a whole number survives every float
WIDTH, LAYERS, STEPS = (1, 2**16), (1, 1000), (1, 10**12)
SEED = (0, 2**64 - 1)
SHARE, NOT_NEGATIVE = (0, 1), (0, LARGEST)
# Smallest and largest by the end of a key, the longest that fits. What is read off them is a slip of the hand or more
# than any machine can do.
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": SEED, "seeds": SEED, "previews.seeds": (1, 1000), "measures.seeds": (1, 1000), "count": (1, 10_000),
    "steps": STEPS, "accumulate": STEPS, "log_every": STEPS, "val_every": STEPS, "save_every": STEPS,
    "preview_every": STEPS, "every": STEPS, "r1_every": STEPS, "max_steps": STEPS, "previews.steps": LAYERS,
    "measures.steps": LAYERS, "share": SHARE,
    "warmup": NOT_NEGATIVE, "minimum": SHARE, "every_seconds": NOT_NEGATIVE, "decay": SHARE,
    "image_size": (1, 2**14), "sample_size": (1, 2**14), "height": (1, 2**14), "width": (1, 2**14),
    "tile": (64, 2**14), "multiple": (1, 2**10), "max_aspect": (1, 100), "batch_size": WIDTH, "val_batch_size": WIDTH,
    "num_workers": (0, 1024), "val_samples": STEPS, "flip": SHARE, "max_bad_fraction": SHARE, "shuffle_shards": STEPS,
    "statistics_images": STEPS, "shard_samples": STEPS, "objects": (1, 4), "samples": STEPS,
    "vae_widths": WIDTH, "widths": WIDTH, "expansion": (0.01, 100),
    "vae_dim": WIDTH, "feat_dim": WIDTH, "text_dim": WIDTH, "disc_base": WIDTH, "d_model": WIDTH, "base_ch": WIDTH,
    "ctx_dim": (0, 2**16), "embed_dim": WIDTH, "embedding_size": WIDTH, "ctx_tokens": WIDTH, "max_hw": (1, 2**20),
    "downscales": (1, 10), "upscales": (1, 10), "disc_depth": (1, 10), "depth": (1, 10), "in_channels": WIDTH,
    "attn_layers": LAYERS, "flow_layers": LAYERS, "n_layers": LAYERS, "attn_ff_mult": LAYERS,
    "layers": LAYERS, "heads": LAYERS, "length": (1, 2**12), "vocabulary": (1, 2**20),
    "attn_heads": LAYERS, "flow_heads": LAYERS, "n_head": LAYERS,
    "lr": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE, "text_rate": NOT_NEGATIVE, "mse_weight": NOT_NEGATIVE,
    "beta": NOT_NEGATIVE, "beta_warmup": NOT_NEGATIVE, "free_bits": NOT_NEGATIVE, "gan_weight": NOT_NEGATIVE,
    "gan_start": NOT_NEGATIVE, "gan_ramp": NOT_NEGATIVE, "r1_gamma": NOT_NEGATIVE, "clip": (ABOVE_0, math.inf),
    "min_snr_gamma": (ABOVE_0, math.inf), "caption_dropout": SHARE, "std": NOT_NEGATIVE, "devices": (-1, 10_000),
}  # fmt: skip
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def check_value(key: str, value: Any, hint: Any) -> None:
    """Refuse a value of another kind than an annotation says.

    Args:
        key: where it stands, dotted.
        value: in plain containers.
        hint: of the argument that takes it; objects are mappings with a `_target_`.
    """
    if accepts(hint, value):
        return
    texts = list(map(str, value)) if isinstance(value, list) else str(value)
    quotable = value is not None and accepts(hint, texts)
    way_out = f" In quotes it is: '{shorten(f'{key}={json.dumps(texts)}')}'." if quotable else ""
    shown = "null" if value is None else repr(value)
    raise ConfigError(f"{key} must be {wording(hint)}, not {shorten(shown)}.{way_out}")


def check_bounds(config: Mapping[str, Any]) -> None:
    """Refuse the numbers of a resolved config that are not finite or beyond `BOUNDS`."""
    for key, value in _numbers(config):
        smallest, largest = _bounds(key.partition("[")[0])
        if smallest <= value <= largest:
            continue
        if value < smallest:
            what = "above 0" if smallest == ABOVE_0 else f"at least {smallest}"
        else:
            what = f"at most {largest}" if value > largest else "a number"
        raise ConfigError(f"{key} must be {what}, not {shorten(str(value))}.")


def accepts(hint: Any, value: Any) -> bool:
    """Return whether plain containers can stand for an argument of this annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(accepts(one, value) for one in arguments)
    if origin is Literal:
        return any(type(one) is type(value) and one == value for one in arguments)
    kind = origin or hint
    if kind in (bool, NoneType, None):
        return isinstance(value, bool) if kind is bool else value is None
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if isinstance(kind, type) and issubclass(kind, (str, PurePath)):
        return isinstance(value, str) and "\0" not in value
    if kind is tuple and ... not in arguments:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(accepts, arguments, value))
    if kind in (list, tuple, Sequence, Iterable):
        one_text = kind is Sequence and isinstance(value, str)  # a sequence of letters, as Python has it
        return one_text or (isinstance(value, list) and all(accepts(one, v) for one in arguments[:1] for v in value))
    if kind in (dict, Mapping):
        return isinstance(value, dict) and all(accepts(one, v) for one in arguments[1:] for v in value.values())
    return isinstance(value, dict) and "_target_" in value


def wording(hint: Any) -> str:
    """Return what an annotation accepts, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    kind = origin or hint
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(wording, arguments)))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if kind in WORDS:
        return WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return WORDS[str]
    if kind is tuple and ... not in arguments:
        return f"a list of {len(arguments)} {PLURALS.get(arguments[0], 'values')}"
    if kind in (list, tuple, Sequence, Iterable):
        return f"a list of {PLURALS.get(arguments[0], 'values')}" if arguments else "a list"
    return "a mapping" if kind in (dict, Mapping) else "an object with a _target_"


def _bounds(key: str) -> tuple[float, float]:
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((BOUNDS[end] for end in ends if end in BOUNDS), (-LARGEST, LARGEST))


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _numbers(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _numbers(child, f"{key}[{index}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value
