"""What a config must satisfy before any work starts, and the sentences for what does not; without Hydra and torch."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fluxflow.commands.run_folders import output_folder, run_name
from fluxflow.commands.values import check_value
from fluxflow.data.images.buckets import Buckets
from fluxflow.errors import CheckpointError, ConfigError
from fluxflow.formats import LATENT
from fluxflow.revisions import current, revision_of
from fluxflow.runs import INDEX, find_model, is_published
from fluxflow.schema import read_json
from fluxflow.versions import DEFAULT_VERSION, VERSIONS

VAE_MODULE, FLOW_MODULE = "fluxflow.training.VAELitModule", "fluxflow.training.FlowLitModule"
BEZIER_TEXT = "fluxflow.models.BezierTextEncoder"
LATENT_DATA = "fluxflow.data.LatentDataModule"
WIDEST_DISCRIMINATOR = 8192  # channels: more take tens of GB
VAE_ARGUMENTS = {"vae_dim": "d_model", "downscales": "downscales", "max_hw": "max_hw", "version": "version"}
MODEL_LAYOUTS = ("planar", "published")
MATMUL_PRECISIONS = ("highest", "high", "medium")
OPTIMIZERS = ("optimizer", "discriminator_optimizer")
OPTIMIZER_STATES = ("_target_", "amsgrad", "centered", "momentum")  # decide what it keeps beside the weights
OPEN = ("callbacks", "logger")  # mappings of objects, which may be null, left out or more than those of the configs
COMPLETE = ("data.", "data.transform.", "data.transform.buckets.")  # prefixes of objects that need each of their keys
HINTS = {"name": str, "run_dir": str, "vae": str | None, "resume": str | None}  # of keys whose defaults tell no kind


def check_keys(config: dict[str, Any], reference: dict[str, Any], prefix: str = "") -> None:
    """Refuse unknown and missing keys, missing values and values of another kind.

    What an object takes, its constructor says: `fluxflow.commands.build` asks it.

    Args:
        config: a config, its interpolations resolved or not.
        reference: the same choice of groups without any other override: the keys and kinds that exist.
        prefix: the dotted key of both, with a dot at its end.
    """
    built, free = "_target_" in config, prefix[:-1] in OPEN
    for name in reference:
        key = f"{prefix}{name}"
        if name not in config and key not in OPEN and not free and (not built or prefix in COMPLETE):
            raise ConfigError(f"{key} is missing: give {key}=, or leave out the override that removes it.")
    for name, value in config.items():
        key = f"{prefix}{name}"
        if name not in reference:
            if reference and not built and not free:
                raise ConfigError(unknown_key(key, dotted(reference, prefix)))
            continue
        expected = reference[name]
        if value == "???":
            raise ConfigError(f"{key} has no value: give {key}=.")
        if isinstance(value, dict) and isinstance(expected, dict):
            check_keys(value, expected, f"{key}.")
        elif not built and not _is_interpolation(value):
            check_value(key, value, dict | None if free or key in OPEN else _hint(key, expected))


def check_choices(config: dict[str, Any]) -> None:
    """Refuse what is none of a few words; `config` is resolved."""
    choices_of = {
        "model.version": VERSIONS,
        "model.layout": MODEL_LAYOUTS,
        "matmul_precision": MATMUL_PRECISIONS,
    }
    for key, choices in choices_of.items():
        if (value := select(config, key)) is not None and str(value) not in choices:
            raise ConfigError(unknown_value(key, str(value), choices))


def check_combinations(config: dict[str, Any]) -> None:
    """Refuse keys that exclude each other, or a VAE of another latent, in a resolved config."""
    run_name(config["name"])
    output_folder(config["output_dir"])
    data = config["data"]
    if "sources" in data and not data["train"] and not data["sources"]:
        raise ConfigError("data.train has no value: give data.train=, or data.sources= for several sets.")
    if "stage" not in config:
        _check_encoding(config)
    elif config["stage"]["_target_"] == VAE_MODULE:
        _check_vae_stage(config)
    elif config["stage"]["_target_"] == FLOW_MODULE:
        _check_text(config)
        _check_given_vae(config, "stage=flow")


def _check_encoding(config: dict[str, Any]) -> None:
    if config["data"]["_target_"] == LATENT_DATA:
        raise ConfigError("Encoding needs images, and data=latents has none: take data=shards or data=folder.")
    if config["data"].get("sources"):
        raise ConfigError("Encoding takes one set, data.train=: data=latents mixes the caches of several.")
    _check_given_vae(config, "Encoding")


def _check_vae_stage(config: dict[str, Any]) -> None:
    if config["data"]["_target_"] == LATENT_DATA:
        raise ConfigError("stage=vae needs images, and data=latents has none: take data=shards or data=folder.")
    if config["vae"] is not None:
        raise ConfigError("vae= is the VAE on which stage=flow trains; stage=vae makes a new one: leave it out.")
    if str(select(config, "trainer.precision")).startswith("16"):
        raise ConfigError("stage=vae trains a GAN, which precision=fp16 cannot: take precision=bf16 or fp32.")
    if select(config, "trainer.strategy") == "fsdp":
        raise ConfigError("strategy=fsdp is for stage=flow alone: take strategy=ddp for stage=vae.")


def _check_text(config: dict[str, Any]) -> None:
    version, text = str(config["model"]["version"]), config["stage"]["text_encoder"]["_target_"]
    if text == BEZIER_TEXT and not VERSIONS[version].words:
        raise ConfigError(f"text=bezier is for model.version=1.0, whose flow attends to words; this one is {version}.")


def _check_given_vae(config: dict[str, Any], who: str) -> None:
    if config["vae"] is None:
        raise ConfigError(f"{who} needs the VAE of stage 1: give vae=<its run or model folder>.")
    check_vae(config["vae"], config["model"])


def check_sizes(config: dict[str, Any]) -> None:
    """Refuse numbers that do not go together, in a resolved config whose objects were checked."""
    data, model = config["data"], config["model"]
    if data["_target_"] != LATENT_DATA:
        buckets = data["transform"]["buckets"]
        if buckets["image_size"] != data["image_size"]:
            raise ConfigError("data.transform.buckets.image_size follows data.image_size: give that one alone.")
        Buckets(data["image_size"], buckets["multiple"], buckets["max_aspect"])
    pairs = {"vae_dim": "attn_heads", "feat_dim": "flow_heads"}
    if VERSIONS[str(model["version"])].residual:
        del pairs["vae_dim"]  # no attention there
    for width, heads in pairs.items():
        if model[width] % model[heads]:
            raise ConfigError(f"model.{width}={model[width]} is not a multiple of model.{heads}={model[heads]}.")
    critic = config.get("stage", {}).get("discriminator", {})
    widest = critic.get("base_ch", 0) << critic.get("depth", 0)
    if widest > WIDEST_DISCRIMINATOR:
        raise ConfigError(
            f"model.disc_base·2^model.disc_depth is {widest}: {WIDEST_DISCRIMINATOR} channels are the most."
        )


def check_vae(vae: str, model: dict[str, Any]) -> None:
    """Refuse the VAE of another latent than `model` describes.

    Raises:
        CheckpointError: there is no model.
        ConfigError: the message names the keys that differ.
    """
    there = _published_compressor(vae) if is_published(vae) else _compressor(find_model(vae))
    differing = [key for key, argument in VAE_ARGUMENTS.items() if there.get(argument) != model[key]]
    if "version" in differing and _fits(str(there.get("version")), str(model["version"])):
        differing.remove("version")
    if differing:
        what = ", ".join(f"model.{key}={there.get(VAE_ARGUMENTS[key])}" for key in differing)
        raise ConfigError(f"The VAE of {vae} was trained with {what}: choose the same model=.")


def _fits(vae: str, flow: str) -> bool:
    """Whether a flow of our own version takes the latents of a VAE of another one: those that carry no context."""
    return vae in VERSIONS and VERSIONS[flow].words and not VERSIONS[vae].context_channels


def _compressor(model: Path) -> dict[str, Any]:
    """Return the constructor arguments of the compressor in a model folder."""
    path = current(model / "compressor" / "config.json", revision_of(model / INDEX))
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: copy the whole model folder, or train the VAE again.")
    return {"version": DEFAULT_VERSION} | read_json(path, LATENT)


def _published_compressor(path: str) -> dict[str, Any]:
    from fluxflow.published.reader import published_arguments  # here alone: it imports torch

    found = published_arguments(path)
    if "compressor" not in found:
        raise CheckpointError(f"{path} holds no compressor, only {', '.join(found)}.")
    return found["compressor"]


def check_same_model(checkpoint: dict[str, Any], config: dict[str, Any], path: Path) -> None:
    """Refuse the checkpoint of another model or stage, or of an optimizer whose states the one of this run cannot take.

    Args:
        checkpoint: the config that the checkpoint holds.
        config: the config of this run.
        path: where the checkpoint lies, for the message.

    Raises:
        CheckpointError: the message names the keys that differ.
    """
    there, here = _kept(checkpoint), _kept(config)
    differing = [key for key in here if there.get(key) != here[key]]
    if differing:
        what = ", ".join(f"{key} is {there.get(key)} there and {here[key]} here" for key in differing)
        noun = "optimizer" if all(key.startswith("stage.") for key in differing) else "model"
        raise CheckpointError(
            f"{path} is of another {noun}: {what}. Repeat the options of that run, or leave out resume."
        )


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a config that a resumed run cannot change."""
    stage = config["stage"]
    model = {"layout": MODEL_LAYOUTS[0]} | config["model"]  # checkpoints from before there were layouts name none
    kept = {"stage": stage["_target_"].split(".")[-1]} | {f"model.{key}": value for key, value in model.items()}
    for name in OPTIMIZERS:
        if isinstance(stage.get(name), dict):
            kept |= {f"stage.{name}.{key}": stage[name].get(key) or None for key in OPTIMIZER_STATES}
    return kept


def unknown_key(key: str, valid: Iterable[str]) -> str:
    """Return the sentence for a key that does not exist: `valid` holds the dotted keys that do."""
    valid = list(valid)
    parent, _, name = key.rpartition(".")
    same_name = [other for other in valid if other.rpartition(".")[2] == name]
    siblings = {other.rpartition(".")[2]: other for other in valid if other.rpartition(".")[0] == parent}
    near = same_name[:3] or [siblings[n] for n in difflib.get_close_matches(name, siblings, n=2, cutoff=0.7)]
    return f"unknown key '{key}'{_did_you_mean(near or difflib.get_close_matches(key, valid, n=1))}"


def unknown_value(key: str, value: str, valid: Iterable[str]) -> str:
    """Return the sentence for a choice that does not exist."""
    valid = list(valid)
    return f"unknown value '{value}' for '{key}'{_did_you_mean(difflib.get_close_matches(value, valid, n=1))} " + (
        f"({', '.join(valid)})"
    )


def dotted(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of nested dicts, parents before their children."""
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")


def select(config: dict[str, Any], key: str) -> Any:
    """Return the value of a dotted key of nested dicts, None where it is absent."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _hint(key: str, expected: Any) -> Any:
    """Return what the default of a key that no constructor takes says about its values."""
    unknown = expected is None or _is_interpolation(expected)
    return HINTS.get(key, Any if unknown else type(expected))


def _did_you_mean(near: list[str]) -> str:
    return f": did you mean {' or '.join(repr(name) for name in near)}?" if near else "."
