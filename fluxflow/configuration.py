"""What a config must satisfy before any work starts, and the sentences for what does not; without Hydra and torch."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fluxflow.claims import claim_new
from fluxflow.data.buckets import Buckets
from fluxflow.errors import CheckpointError, ConfigError
from fluxflow.formats import COMPRESSOR
from fluxflow.runs import INDEX, LAST, current, find_checkpoint, find_model, is_published, newest_run, revision_of
from fluxflow.schema import check, read_json
from fluxflow.versions import DEFAULT_VERSION, VERSIONS

DATED = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}")  # the name of a run to which the user gave none
VAE_MODULE, FLOW_MODULE = "fluxflow.training.VAELitModule", "fluxflow.training.FlowLitModule"
ENCODER, LATENT_DATA = "fluxflow.training.LatentEncoder", "fluxflow.data.LatentDataModule"
LONGEST_NAME = 200  # characters; file systems take 255 bytes
VAE_ARGUMENTS = {"vae_dim": "d_model", "downscales": "downscales", "max_hw": "max_hw", "version": "version"}
MODEL_LAYOUTS = ("planar", "published")
MATMUL_PRECISIONS = ("highest", "high", "medium")
MEMORY = ("auto", "none", "blocks")
SMALLEST = {
    "seed": 0, "steps": 1, "accumulate": 1, "log_every": 1, "val_every": 1, "save_every": 1, "preview_every": 1,
    "data.image_size": 1, "data.batch_size": 1, "data.num_workers": 0,
}  # fmt: skip
OPTIMIZERS = ("optimizer", "discriminator_optimizer")
OPTIMIZER_STATES = ("_target_", "amsgrad", "centered", "momentum")  # decide what it keeps beside the weights
AUTOMATIC = ("data.num_workers",)  # may be null
KINDS = {bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a mapping or null"}


def check_keys(config: dict[str, Any], reference: dict[str, Any], prefix: str = "") -> None:
    """Refuse unknown keys, missing values and values of another type.

    Args:
        config: a config before interpolations are resolved. An object may have arguments that `reference` lacks.
        reference: the same choice of groups without any other override: the keys and types that exist.
        prefix: the dotted key of both, with a dot at its end.
    """
    for name, value in config.items():
        key = f"{prefix}{name}"
        if name not in reference:
            if "_target_" not in config and reference:
                raise ConfigError(unknown_key(key, dotted(reference, prefix)))
            continue
        if value == "???":
            raise ConfigError(f"{key} has no value: give {key}=.")
        expected = reference[name]
        if value is None or expected is None or _is_interpolation(value):
            continue
        if not _fits(value, expected):
            raise ConfigError(f"{key} must be {KINDS[type(expected)]}, not {value!r}.")
        if isinstance(value, dict):
            check_keys(value, expected, f"{key}.")


def check_ranges(config: dict[str, Any]) -> None:
    """Refuse numbers and choices out of range; `config` may hold interpolations."""
    named = ("version", "layout")
    model = {f"model.{name}": 1 for name, value in config["model"].items() if name not in named}
    keys = set(dotted(config))
    for key, smallest in (SMALLEST | model).items():
        value = select(config, key)
        if key not in keys or (value is None and key in AUTOMATIC):
            continue
        if value is None or (not _is_interpolation(value) and value < smallest):
            raise ConfigError(f"{key} must be at least {smallest}, not {'null' if value is None else value}.")
    choices_of = {
        "model.version": VERSIONS,
        "model.layout": MODEL_LAYOUTS,
        "matmul_precision": MATMUL_PRECISIONS,
        "memory": MEMORY,
    }
    for key, choices in choices_of.items():
        if (value := str(select(config, key))) not in choices:
            raise ConfigError(unknown_value(key, value, choices))


def check_combinations(config: dict[str, Any]) -> None:
    """Refuse keys that exclude each other, or a VAE of another latent, in a resolved config."""
    data = config["data"]
    cached = data["_target_"] == LATENT_DATA
    if not cached:
        Buckets(data["image_size"], data["multiple"], data["max_aspect"])
    if "sources" in data and not data["train"] and not data["sources"]:
        raise ConfigError("data.train has no value: give data.train=, or data.sources= for several sets.")
    stage, half = config["stage"]["_target_"], str(config["trainer"]["precision"]).startswith("16")
    if cached and stage != FLOW_MODULE:
        name = "vae" if stage == VAE_MODULE else "encode"
        raise ConfigError(f"stage={name} needs pictures, and data=latents has none: take data=shards or data=folder.")
    if stage == ENCODER:
        if config["vae"] is None:
            raise ConfigError("stage=encode needs the VAE of stage 1: give vae=<its run or model folder>.")
        if config["resume"] is not None:
            raise ConfigError("resume= is for training: stage=encode goes on where it stopped when its name= is given.")
        if config["compile"] or config["memory"] != "auto":
            raise ConfigError("compile= and memory= are for training: leave them out with stage=encode.")
        if data.get("sources"):
            raise ConfigError("stage=encode takes one set, data.train=: data=latents mixes the caches of several.")
        check_vae(config["vae"], config["model"])
    if stage == VAE_MODULE:
        if config["vae"] is not None:
            raise ConfigError("vae= is the VAE on which stage=flow trains; stage=vae makes a new one: leave it out.")
        if half:
            raise ConfigError("stage=vae trains a GAN, which precision=fp16 cannot: take precision=bf16 or fp32.")
        if config["trainer"]["strategy"] == "fsdp":
            raise ConfigError("strategy=fsdp is for stage=flow alone: take strategy=ddp for stage=vae.")
    if stage == FLOW_MODULE:
        if config["vae"] is None:
            raise ConfigError("stage=flow needs the VAE of stage 1: give vae=<its run or model folder>.")
        check_vae(config["vae"], config["model"])


def check_vae(vae: str, model: dict[str, Any]) -> None:
    """Refuse the VAE of another latent than `model` describes.

    Raises:
        CheckpointError: there is no model.
        ConfigError: the message names the keys that differ.
    """
    there = _published_compressor(vae) if is_published(vae) else _compressor(find_model(vae))
    differing = [key for key, argument in VAE_ARGUMENTS.items() if there[argument] != model[key]]
    if differing:
        what = ", ".join(f"model.{key}={there[VAE_ARGUMENTS[key]]}" for key in differing)
        raise ConfigError(f"The VAE of {vae} was trained with {what}: choose the same model= for stage=flow.")


def _compressor(model: Path) -> dict[str, Any]:
    """Return the constructor arguments of the compressor in a model folder."""
    path = current(model / "compressor" / "config.json", revision_of(model / INDEX))
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: copy the whole model folder, or train the VAE again.")
    content = read_json(path)
    content.pop("_class_name", None)
    check(content, COMPRESSOR, path)
    return {"version": DEFAULT_VERSION} | content


def _published_compressor(path: str) -> dict[str, Any]:
    from fluxflow.checkpoint.published import published_arguments  # here alone: it imports torch

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


def run_folder(stage_dir: str, name: str, resume: str | None) -> str:
    """Return the folder of a run: the one whose checkpoint it continues, or else `<stage_dir>/<name>`.

    Args:
        stage_dir: where the runs of this stage are.
        name: of a new run; a date and a time unless the user gave another. The folder of a dated one is made here, so
            that a run which starts in the same second takes another.
        resume: None, a run folder or a checkpoint in one, or "auto": the run called `name`, or, where that is a date,
            the one that saved last.

    Raises:
        CheckpointError: `resume` is a path that holds no checkpoint.
        StorageError: the folder cannot be made.
    """
    new = Path(stage_dir) / str(name)
    checkpoint = find_checkpoint(resume, new)
    if checkpoint is not None and checkpoint.parent.name == LAST.parent.name:
        return str(checkpoint.parents[1])
    if not DATED.fullmatch(new.name):
        return str(new)
    newest = newest_run(new.parent.glob("*")) if resume == "auto" else None
    return str(newest or claim_new(new))


def sweep_folder(sweeps_dir: str, name: str, resume: str | None) -> str:
    """Return the folder of a sweep: `<sweeps_dir>/<name>`, or with resume=auto and no name= the one that saved last.

    Args:
        sweeps_dir: where sweeps are.
        name, resume: as of `run_folder`.

    Raises:
        StorageError: the folder cannot be made.
    """
    new = Path(sweeps_dir) / str(name)
    if not DATED.fullmatch(new.name):
        return str(new)
    newest = newest_run(new.parent.glob("*/*")) if resume == "auto" else None
    return str(newest.parent if newest else claim_new(new))


def job_folder(overrides: str) -> str:
    """Return the folder of a sweep's job: its overrides, without slashes and short enough for a file system."""
    name = overrides.replace("/", "_")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}…{hashlib.sha256(name.encode()).hexdigest()[:8]}"


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


def _fits(value: Any, expected: Any) -> bool:
    if isinstance(expected, (bool, int, float)):
        kinds = {bool: (bool,), int: (int,), float: (int, float)}[type(expected)]
        return isinstance(value, kinds) and isinstance(value, bool) == isinstance(expected, bool)
    if isinstance(expected, (list, dict)):
        return isinstance(value, type(expected))
    return not isinstance(value, dict)


def _did_you_mean(near: list[str]) -> str:
    return f": did you mean {' or '.join(repr(name) for name in near)}?" if near else "."
