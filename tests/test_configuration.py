import os
from pathlib import Path

import pytest

from fluxflow import claims
from fluxflow.commands import configuration
from fluxflow.commands import run_folders as folders
from fluxflow.errors import CheckpointError, ConfigError
from tests import published

REFERENCE = {
    "steps": 100,
    "model": {
        "vae_dim": 128,
        "downscales": 4,
        "light": False,
        "version": "0.3.0",
        "rates": [0.9, 0.99],
        "scale": 1.0,
    },
    "stage": {"_target_": configuration.VAE_MODULE, "lr": 1e-4, "optimizer": {"_target_": "a.B"}},
    "callbacks": {"ema": {"_target_": "a.B"}},
    "vae": None,
    "name": "${now:}",
}


def changed(key: str, value: object) -> dict:
    config = {name: dict(node) if isinstance(node, dict) else node for name, node in REFERENCE.items()}
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[name] = value
    return config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", "abc", "steps must be a whole number, not 'abc'."),
        ("steps", 1.5, "steps must be a whole number, not 1.5."),
        ("steps", True, "steps must be a whole number, not True."),
        ("steps", None, "steps must be a whole number, not null."),
        ("model.rates", 0.9, "model.rates must be a list, not 0.9."),
        ("model.scale", "fast", "model.scale must be a number, not 'fast'."),
        ("callbacks.ema", 0.9, "callbacks.ema must be a mapping or null, not 0.9."),
        ("model", None, "model must be a mapping, not null."),
        ("name", 2024, "name must be text, not 2024. In quotes it is: 'name=\"2024\"'."),
        ("vae", [], "vae must be text or null, not []."),
        ("model.light", 1, "model.light must be true or false, not 1."),
        ("steps", "???", "steps has no value: give steps=."),
        ("step", 1, "unknown key 'step': did you mean 'steps'?"),
        ("model.vae_dmi", 1, "unknown key 'model.vae_dmi': did you mean 'model.vae_dim'?"),
    ],
)
def test_keys_and_types(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        configuration.check_keys(changed(key, value), REFERENCE)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("key", "value"),
    [("stage.lr", 1), ("callbacks.ema", None), ("callbacks", None), ("callbacks.mine", {"_target_": "a.B"}),
     ("vae", "outputs/vae/x"), ("stage.new_argument", 3), ("model.scale", 1)],
)  # fmt: skip
def test_what_fits_passes(key: str, value: object) -> None:
    configuration.check_keys(changed(key, value), REFERENCE)


def test_a_key_that_was_removed_is_missed() -> None:
    for name in ("steps", "model"):
        config = {key: value for key, value in REFERENCE.items() if key != name}
        with pytest.raises(ConfigError, match=f"{name} is missing: give {name}="):
            configuration.check_keys(config, REFERENCE)
    configuration.check_keys({key: value for key, value in REFERENCE.items() if key != "callbacks"}, REFERENCE)


@pytest.mark.parametrize("name", [None, "", " ", ".", "..", "a/b", "/", "a\\b", "x" * 300, "é" * 150])
def test_a_name_that_is_no_folder_is_refused(name: str | None) -> None:
    with pytest.raises(ConfigError, match="name="):
        folders.run_name(name)


def test_names_stay_and_the_folder_of_all_runs_is_never_the_root() -> None:
    assert [folders.run_name(name) for name in ("2024_01", "null", "rotes Kleid")] == (
        ["2024_01", "null", "rotes Kleid"]
    )
    assert folders.output_folder("outputs") == "outputs"
    for path in (None, "", "  "):
        with pytest.raises(ConfigError, match="output_dir= names no folder"):
            folders.output_folder(path)


def test_the_nearest_sibling_is_named_first_and_a_lost_prefix_is_found() -> None:
    keys = ["steps", "model", "model.vae_dim", "model.text_dim", "stage.lr"]
    assert configuration.unknown_key("modle.vae_dim", keys) == (
        "unknown key 'modle.vae_dim': did you mean 'model.vae_dim'?"
    )
    assert configuration.unknown_key("lr", keys) == "unknown key 'lr': did you mean 'stage.lr'?"
    assert configuration.unknown_key("zzz", keys) == "unknown key 'zzz'."


def test_a_run_folder_is_new_or_the_one_that_is_continued(tmp_path: Path) -> None:
    last = tmp_path / "2030-01-01_00-00-00" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    run, now = str(last.parents[1]), "2030-02-02_00-00-00"
    assert folders.run_folder(str(tmp_path), now, None) == str(tmp_path / now)
    assert folders.run_folder(str(tmp_path), now, "auto") == run
    assert folders.run_folder(str(tmp_path), "mine", "auto") == str(tmp_path / "mine")
    assert folders.run_folder(str(tmp_path), now, run) == run
    assert folders.run_folder(str(tmp_path), now, str(last)) == run
    with pytest.raises(CheckpointError, match="elsewhere"):
        folders.run_folder(str(tmp_path), now, str(tmp_path / "elsewhere"))


def test_another_model_is_refused_by_its_keys() -> None:
    configuration.check_same_model(REFERENCE, changed("steps", 7), Path("last.ckpt"))
    configuration.check_same_model(REFERENCE, changed("model.layout", "planar"), Path("last.ckpt"))
    with pytest.raises(CheckpointError, match=r"model\.layout is planar there and published here"):
        configuration.check_same_model(REFERENCE, changed("model.layout", "published"), Path("last.ckpt"))
    with pytest.raises(CheckpointError, match=r"model\.vae_dim is 128 there and 64 here"):
        configuration.check_same_model(REFERENCE, changed("model.vae_dim", 64), Path("last.ckpt"))
    with pytest.raises(CheckpointError, match="stage is VAELitModule there and FlowLitModule here"):
        configuration.check_same_model(REFERENCE, changed("stage", {"_target_": "a.FlowLitModule"}), Path("last.ckpt"))


def test_a_vae_of_another_latent_is_refused_by_its_keys(tmp_path: Path) -> None:
    config = tmp_path / "model" / "compressor" / "config.json"
    config.parent.mkdir(parents=True)
    (tmp_path / "model" / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="missing"):
        configuration.check_vae(str(tmp_path), {})
    config.write_text('{"d_model": 32, "downscales": 3, "max_hw": 1024}')
    model = {"vae_dim": 32, "downscales": 3, "max_hw": 1024, "version": "0.3.0"}
    configuration.check_vae(str(tmp_path), model)
    with pytest.raises(ConfigError, match=r"model\.downscales=3: choose"):
        configuration.check_vae(str(tmp_path), model | {"downscales": 4})
    with pytest.raises(ConfigError, match=r"model\.version=0\.3\.0: choose"):
        configuration.check_vae(str(tmp_path), model | {"version": "0.6.0"})


def test_a_published_vae_is_compared_too(tmp_path: Path) -> None:
    path = published.write(tmp_path / "vae.safetensors", published.state("0.7.0"))
    model = {"vae_dim": 8, "downscales": 2, "max_hw": 1024, "version": "0.7.0"}
    configuration.check_vae(str(path), model)
    with pytest.raises(ConfigError, match=r"trained with model\.version=0\.7\.0: choose"):
        configuration.check_vae(str(path), model | {"version": "0.3.0"})
    published.write(path, published.state("0.6.0", components=["expander"]), model_version="0.6.0")
    with pytest.raises(CheckpointError, match="holds no compressor, only expander"):
        configuration.check_vae(str(path), model)


def test_a_job_folder_is_one_short_name() -> None:
    assert folders.job_folder("model.vae_dim=8,vae=outputs/vae/x") == "model.vae_dim=8,vae=outputs_vae_x"
    long = [folders.job_folder(letter * 300 + end) for letter in "xé" for end in "ab"]
    assert len(set(long)) == 4
    assert all(len(name.encode()) < 255 for name in long)


def test_runs_of_one_second_are_two(tmp_path: Path) -> None:
    now = "2030-01-01_00-00-00"
    try:
        (tmp_path / now).mkdir()  # another process's
        assert folders.run_folder(str(tmp_path), now, None) == str(tmp_path / f"{now}-2")
        assert folders.run_folder(str(tmp_path), now, None) == str(tmp_path / f"{now}-2"), "asked again"
        assert folders.sweep_folder(str(tmp_path / "sweeps"), now, None) == str(tmp_path / "sweeps" / now)
        assert folders.run_folder(str(tmp_path), "mine", None) == str(tmp_path / "mine")
    finally:
        claims.release()


def test_auto_takes_the_run_that_saved_last_whatever_its_name(tmp_path: Path) -> None:
    for age, name in enumerate(("mine", "2030-01-01_00-00-00", "sweeps/a/job", "sweeps/b/job")):
        last = tmp_path / name / "checkpoints" / "last.ckpt"
        last.parent.mkdir(parents=True)
        last.touch()
        os.utime(last, (1e9 - age, 1e9 - age))
    now = "2030-02-02_00-00-00"
    assert folders.run_folder(str(tmp_path), now, "auto") == str(tmp_path / "mine")
    assert folders.run_folder(str(tmp_path), "other", "auto") == str(tmp_path / "other")
    assert folders.run_folder(str(tmp_path), "2030-01-01_00-00-00", "auto").endswith("2030-01-01_00-00-00")
    assert folders.sweep_folder(str(tmp_path / "sweeps"), now, "auto") == str(tmp_path / "sweeps" / "a")
    assert folders.sweep_folder(str(tmp_path / "sweeps"), "b", "auto") == str(tmp_path / "sweeps" / "b")


def test_another_optimizer_is_refused_by_its_keys() -> None:
    def config(**options: object) -> dict:
        stage = {"_target_": configuration.VAE_MODULE, "optimizer": {"_target_": "torch.optim.AdamW", **options}}
        return REFERENCE | {"stage": stage}

    configuration.check_same_model(config(lr=1, amsgrad=False), config(lr=2), Path("last.ckpt"))
    message = r"of another optimizer: stage\.optimizer\.%s is"
    with pytest.raises(CheckpointError, match=message % "_target_"):
        configuration.check_same_model(config(), config(_target_="torch.optim.SGD"), Path("last.ckpt"))
    with pytest.raises(CheckpointError, match=message % "amsgrad"):
        configuration.check_same_model(config(), config(amsgrad=True), Path("last.ckpt"))
