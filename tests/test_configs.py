"""Every shipped config composes, passes its own checks, and builds."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from fluxflow.commands import build, configuration, objects
from fluxflow.commands.objects import CONFIGS
from fluxflow.errors import ConfigError, FluxFlowError

GROUPS = {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in CONFIGS.glob("*/")}
MEMBERS = [(group, name) for group, names in sorted(GROUPS.items()) for name in names]


def composed(*overrides: str, command: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(command, [*overrides, "run_dir=run"])


def needed(group: str, name: str) -> list[str]:
    """What a user must give with this choice."""
    stage = "flow" if name.endswith("flow") or name in ("fsdp", "fp16", "latents") else "vae"
    theirs = group == "data" and name not in ("demo", "shapes")
    data = ["data.train=pictures"] if theirs or name.startswith("gpu") else []
    chosen = [] if group in ("stage", "experiment") else [f"stage={stage}"]
    return [*chosen, *data, *(["vae=outputs/vae/mine"] if stage == "flow" else []), f"{group}={name}"]


def test_the_groups_are_those_of_the_design() -> None:
    assert set(GROUPS) == {"data", "experiment", "logger", "model", "precision", "stage", "strategy", "text"}
    assert GROUPS["model"] == ["default", "large", "small", "tiny", "v1_base", "v1_tiny"]
    assert GROUPS["precision"] == ["bf16", "fp16", "fp32"]
    assert GROUPS["strategy"] == ["ddp", "fsdp", "single"]
    assert GROUPS["logger"] == ["csv", "tensorboard", "wandb"]
    assert GROUPS["stage"] == ["flow", "vae"]
    assert all(len(names) > 1 for names in GROUPS.values()), "a group is a choice"


@pytest.mark.parametrize(("group", "name"), MEMBERS)
def test_each_member_composes_and_passes_the_checks(group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "check_vae", lambda vae, model: None)
    config = composed(*needed(group, name))
    assert build.checked(config, config)["run_dir"] == "run"


@pytest.mark.parametrize("data", ["folder", "shards"])
def test_stage_1_alone_needs_no_captions(data: str) -> None:
    needs = {stage: composed(f"stage={stage}", f"data={data}").data.reader.needs_captions for stage in GROUPS["stage"]}
    assert needs == {"flow": True, "vae": False}
    assert composed(f"data={data}", command="encode").data.reader.needs_captions


@pytest.mark.parametrize("name", GROUPS["model"])
def test_each_model_divides_its_pictures_and_heads(name: str) -> None:
    model = composed(f"model={name}").model
    assert model.vae_dim % model.attn_heads == 0
    assert model.feat_dim % model.flow_heads == 0


def test_every_target_of_the_configs_exists() -> None:
    from hydra.utils import get_object

    for target in objects.shipped_targets():
        assert callable(get_object(target)), target


@pytest.mark.parametrize(
    "target", ["os.system", "torch.load", "torch.optim.lr_scheduler.warnings.sys.exit", "builtins.eval"]
)
def test_targets_that_no_config_ships_are_refused(target: str) -> None:
    config = OmegaConf.create({"outer": {"inner": [{"_target_": target}]}})
    with pytest.raises(ConfigError, match=r"unknown value .* for 'outer\.inner\[0\]\._target_'"):
        build.build(config)


def test_an_argument_that_a_constructor_lacks_is_refused_with_the_nearest() -> None:
    config = OmegaConf.create({"optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "weight_deca": 0.1}})
    with pytest.raises(ConfigError, match=r"'optimizer\.weight_deca': did you mean 'optimizer\.weight_decay'"):
        build.build(config)


def test_several_sources_are_given_on_the_command_line() -> None:
    sources = "data.sources={a:{path:x,weight:2},b:{path:y}}"
    config = composed("data=shards", sources, "data.val=z", "run_dir=unused")
    assert build.checked(config, composed("data=shards"))["data"]["sources"]["a"] == {"path": "x", "weight": 2}
    assert [source.weight for source in build.build(config.data).sources.values()] == [2.0, 1.0]
    mistyped = composed("data=shards", sources.replace("weight", "wieght"), "data.val=z", "run_dir=unused")
    with pytest.raises(ConfigError, match=r"data\.sources\.a\.wieght': did you mean 'weight'"):
        build.build(mistyped.data)


def test_optimizers_of_torch_are_allowed() -> None:
    optimizer = build.build(OmegaConf.create({"_target_": "torch.optim.RMSprop", "_partial_": True, "lr": 0.1}))
    assert callable(optimizer)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["precision=fp16"], "bf16 or fp32"),
        (["strategy=fsdp"], "strategy=ddp"),
        (["stage=flow"], "vae="),
        (["data.image_size=50"], r"not a multiple of 16 .* 48 or 64"),
        (["data.image_size=8"], "take 16"),
        (["data.batch_size=-1"], r"data\.batch_size must be at least 1, not -1"),
        (["steps=0"], "steps must be at least 1"),
        (["seed=null"], "seed must be a whole number, not null"),
        (["seed=99999999999999999999"], "seed must be at most 18446744073709551615"),
        (["stage.optimizer.lr=fast"], r"stage\.optimizer\.lr must be a number, not 'fast'"),
        (["stage.optimizer.betas=0.9"], r"stage\.optimizer\.betas must be a list of 2 numbers, not 0\.9"),
        (["stage.clip=0"], r"stage\.clip must be above 0, not 0"),
        (["data.train=2024"], r"data\.train must be text .* not 2024\. In quotes it is: 'data\.train=\"2024\"'"),
        (["data.image_size=1000000000"], r"data\.image_size must be at most 16384"),
        (["model.downscales=99999999"], r"model\.downscales must be at most 10"),
        (["model.vae_dim=65"], r"model\.vae_dim=65 is not a multiple of model\.attn_heads=8"),
        (["model.disc_depth=9"], r"model\.disc_base·2\^model\.disc_depth is 32768"),
        (["callbacks.ema=3"], r"callbacks\.ema must be a mapping or null"),
        (["~data.batch_size"], r"data\.batch_size is missing"),
        (["~data.transform.flip"], r"data\.transform\.flip is missing"),
        (["~data.transform.buckets.multiple"], r"data\.transform\.buckets\.multiple is missing"),
        (["data.transform=null"], r"data\.transform must be an object"),
        (["data.transform.flip=2"], r"data\.transform\.flip must be at most 1"),
        (["data.transform.buckets.image_size=32"], r"follows data\.image_size: give that one alone"),
        (["+data.flip=0"], r"unknown key 'data\.flip': did you mean 'data\.transform\.flip'"),
        (["name=null"], "name must be text, not null"),
        (["name=''"], "name='' names no folder"),
        (["output_dir=''"], "output_dir= names no folder"),
        (["model.version=0.3.1"], r"did you mean '0\.3\.0'"),
        (["model.layout=publshed"], "did you mean 'published'"),
        (["matmul_precision=hihg"], "did you mean 'high'"),
        (["activation_checkpointing=1"], "activation_checkpointing must be true or false, not 1"),
        (["+stpes=3"], "did you mean 'steps'"),
        (["steps=ten"], "steps must be a whole number, not 'ten'"),
        (["model.vae_dim=1.5"], r"model\.vae_dim must be a whole number, not 1\.5"),
        (["val_every=null"], "val_every must be a whole number, not null"),
        (["vae=outputs/vae/mine"], "stage=vae makes a new one"),
        (["stage=flow", "vae=nowhere"], "There is no nowhere"),
        (["data=folder"], r"data\.train has no value"),
        (["data=latents", "stage=flow", "vae=nowhere"], r"data\.train has no value"),
        (["data=latents", "data.train=cache"], "stage=vae needs images, and data=latents has none"),
    ],
)
def test_what_cannot_work_is_refused_by_name(overrides: list[str], message: str) -> None:
    groups = [override for override in overrides if override.split("=")[0] in GROUPS]
    with pytest.raises(FluxFlowError, match=message):
        build.checked(composed(*overrides), composed(*groups))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=latents", "data.train=cache"], "Encoding needs images"),
        ([], "Encoding needs the VAE of stage 1"),
        (["vae=nowhere"], "There is no nowhere"),
        (["vae=nowhere", "data=folder", "data.sources={a:{path:b}}"], r"one set, data\.train="),
        (["vae=nowhere", "encoder.shard_samples=0"], r"encoder\.shard_samples must be at least 1"),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_name(overrides: list[str], message: str) -> None:
    groups = [override for override in overrides if override.split("=")[0] in GROUPS]
    with pytest.raises(FluxFlowError, match=message):
        build.checked(composed(*overrides, command="encode"), composed(*groups, command="encode"))


@pytest.mark.parametrize("key", ["stage", "resume", "compile", "callbacks.ema"])
def test_encoding_has_no_keys_of_training(key: str) -> None:
    with pytest.raises(ConfigCompositionException, match=key.partition(".")[0]):
        composed(f"{key}=x", command="encode")
