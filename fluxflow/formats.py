"""The JSON files of model folders and of caches of latents, key by key: none can ask for endless memory or time."""

import re
from typing import Any

from fluxflow.schema import SHA256, Misfit, Rule, anything, fields, flag, items, like, nullable, number, text, whole
from fluxflow.versions import VERSIONS

WIDTH, DEPTH, HALVINGS = whole(1, 2**14), whole(0, 256), whole(1, 10)
MAX_HW, SIDE = whole(1, 2**20), whole(1, 2**16)
VERSION = text(*VERSIONS)
ACTIVATION, EXPANSION = text("bezier", "silu", "gelu", "relu", "swiglu"), number(0.01, 100)
REVISION, REVISION_DIGITS = "_revision", re.compile(r"[0-9a-f]{16}")
REVISION_RULE = like(REVISION_DIGITS, "16 digits")
HEADS = ("num_attention_heads", "num_key_value_heads", "num_heads", "n_heads", "n_head")
# Of a text model's configuration: what has transformers fetch or import code.
FOREIGN_CODE = ("auto_map", "quantization_config", "attn_implementation", "_attn_implementation")


def backbone_settings(value: Any, key: str) -> None:
    """The configuration of a text model, of which little is known but its kind."""
    fields({"model_type": text()}, others=_setting)(value, key)
    _refuse_code(value, key)


def _refuse_code(value: dict[str, Any], key: str) -> None:
    """Refuse settings that name code of their own."""
    for name in FOREIGN_CODE:
        if value.get(name) is not None:
            place = f"{key}.{name}" if key else name
            raise Misfit(
                f"{place} names code that comes with the model, which is never run: where transformers itself knows "
                "the model, remove the key"
            )


def _setting(value: Any, key: str) -> None:
    anything(2**24)(value, key)
    if key.endswith("layers"):
        nullable(DEPTH)(value, key)
    if key.rpartition(".")[2] in HEADS:
        nullable(WIDTH)(value, key)
    if key.endswith("num_labels"):
        nullable(whole(0, 2**12))(value, key)


_LATENT = {"d_model": WIDTH, "downscales": HALVINGS, "max_hw": MAX_HW, "version": VERSION}
LATENT = fields(_LATENT, optional=("version",), others=anything(2**31))  # what a flow must know of a compressor
COMPRESSOR = fields(
    _LATENT
    | {"in_channels": whole(1, 64), "attn_layers": DEPTH, "attn_heads": WIDTH, "attn_ff_mult": whole(1, 64)}
    | {"widths": items(WIDTH, 1, 11), "activation": ACTIVATION, "expansion": EXPANSION},
    optional=("version", "widths", "activation", "expansion"),
)
EXPANDER = fields(
    {"d_model": WIDTH, "upscales": HALVINGS, "max_hw": MAX_HW, "version": VERSION}
    | {"widths": items(WIDTH, 1, 11), "activation": ACTIVATION, "expansion": EXPANSION},
    optional=("version", "widths", "activation", "expansion"),
)
FLOW = fields(
    {
        "d_model": WIDTH,
        "vae_dim": WIDTH,
        "embedding_size": WIDTH,
        "n_head": WIDTH,
        "n_layers": DEPTH,
        "max_hw": MAX_HW,
        "ctx_tokens": WIDTH,
        "version": VERSION,
        "layout": text("planar", "published"),
        "activation": ACTIVATION,
        "expansion": EXPANSION,
    },
    optional=("version", "layout", "activation", "expansion"),
)
TEXT_ENCODER = fields(
    {"embed_dim": WIDTH, "backbone": backbone_settings, "padded_length": nullable(WIDTH), "words": flag},
    optional=("padded_length", "words"),
)
BEZIER_TEXT = fields(
    {
        "embed_dim": WIDTH,
        "vocabulary": whole(1, 2**20),
        "layers": DEPTH,
        "heads": WIDTH,
        "length": whole(1, 2**12),
        "activation": ACTIVATION,
        "expansion": EXPANSION,
    }
)
DISCRIMINATOR = fields(
    {
        "in_channels": whole(1, 64),
        "base_ch": WIDTH,
        "depth": HALVINGS,
        "ctx_dim": whole(0, 2**14),
        "version": VERSION,
    },
    optional=("version",),
)
CONFIGS: dict[str, Rule] = {
    "FluxCompressor": COMPRESSOR,
    "FluxExpander": EXPANDER,
    "FluxFlowProcessor": FLOW,
    "BertTextEncoder": TEXT_ENCODER,
    "BezierTextEncoder": BEZIER_TEXT,
    "PatchDiscriminator": DISCRIMINATOR,
}

_ENTRY = items(nullable(text()), 2, 2)  # library and class of a component
INDEX = fields(
    {
        "_class_name": text(),
        "latent_mean": items(number(-1e6, 1e6), 1, 2**15),
        "latent_std": items(number(1e-12, 1e6), 1, 2**15),
        "sample_size": nullable(items(SIDE, 2, 2)),
        "vae_hash": SHA256,
        REVISION: REVISION_RULE,
        "_step": whole(0, 2**62),
        **dict.fromkeys(("compressor", "expander", "flow_processor", "text_encoder", "tokenizer", "scheduler"), _ENTRY),
    },
    optional=("compressor", "expander", "flow_processor", "text_encoder", "tokenizer", "scheduler", REVISION, "_step"),
    others=anything(2**31),
)

SCHEDULER = fields(
    {"_class_name": text(), "timestep_spacing": text("trailing", "linspace", "leading"), "steps_offset": whole(0, 1)},
    optional=("steps_offset",),
    others=anything(2000),
)


def tokenizer_settings(value: Any, key: str) -> None:
    """tokenizer_config.json: no code, and a length."""
    fields({"model_max_length": number(1, 2**127)}, optional=("model_max_length",), others=anything(2**31))(value, key)
    _refuse_code(value, key)


PUBLISHED = fields(
    {
        "architecture": fields(
            {"max_hw": nullable(MAX_HW), "flow_attn_heads": nullable(WIDTH)},
            optional=("max_hw", "flow_attn_heads"),
            others=anything(2**31),
        ),
        "model_version": nullable(text()),
        "checksum": fields({"weights_hash": nullable(text())}, optional=("weights_hash",), others=anything(2**31)),
        "training_info": nullable(fields({}, others=anything(2**53))),
    },
    optional=("architecture", "model_version", "checksum", "training_info"),
    others=anything(2**53),
)

_COUNT = whole(0, 2**53)
_SPLITS = ("train", "val")


def _where(value: Any, key: str) -> None:
    """A path, or a list of them."""
    (items(text(), 1) if isinstance(value, list) else text())(value, key)


def _option(value: Any, key: str) -> None:
    """Of a reader: a name, a switch, a number, names, or nothing."""
    kinds: dict[type, Rule] = {bool: flag, int: whole(0, 2**64 - 1), list: items(text())}
    kinds.get(type(value), nullable(text()))(value, key)


_ARGUMENTS = fields({"root": text(), "urls": _where}, optional=("root", "urls"), others=_option)
_LOCATION = fields({"reader": text("FolderReader", "ShapesReader", "ShardReader"), "arguments": _ARGUMENTS})
CACHE_KEY = fields(
    {
        "format": _COUNT,
        "vae": text(),
        "text": text(),
        "transform": fields({"image_size": SIDE, "mirrored": flag}, others=anything(2**53)),
        "source": fields(
            {**dict.fromkeys(_SPLITS, text()), "val_fraction": number(0, 1)}, optional=(*_SPLITS, "val_fraction")
        ),
        "locations": fields(dict.fromkeys(_SPLITS, _LOCATION), optional=_SPLITS),
    }
)
_SHARD = fields(
    {"name": like(re.compile(r"\d+-\d+\.safetensors"), "the name of a shard"), "samples": _COUNT, "bytes": _COUNT}
)
CACHE_INDEX = fields({"samples": _COUNT, "bytes": _COUNT, "shards": items(_SHARD, 1)})
CACHE_SAMPLES = items(
    fields(
        {
            "key": text(),
            "captions": items(text(), 1),
            "size": items(SIDE, 2, 2),
            "latent": like(re.compile(r"\d{1,5}x\d{1,5}"), "a size such as 16x16"),
            "row": _COUNT,
            "mirrored": nullable(_COUNT),
            "text": _COUNT,
            "source": text(),
        }
    )
)
