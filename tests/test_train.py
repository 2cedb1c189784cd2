"""`train.py` from the command line: what a run leaves, how it goes on, and how it refuses."""

import csv
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Trainer
from PIL import Image
from safetensors.torch import load_file

from fluxflow.checkpoint import load_model, load_vae
from fluxflow.commands import encode, train
from fluxflow.commands import hydra_app as commands
from fluxflow.training.callbacks.progress_bar import Progress
from tests import published
from tests.test_claims import holder

ROOT = Path(__file__).parents[1]
SMALLEST = [
    "model=tiny", "model.vae_dim=8", "model.downscales=2", "model.attn_layers=1", "model.attn_heads=2",
    "model.feat_dim=16", "model.flow_layers=1", "model.flow_heads=2", "model.text_dim=16", "model.disc_base=4",
    "model.disc_depth=2", "data.image_size=16", "data.batch_size=2", "data.val_batch_size=4", "data.val_samples=4",
    "data.num_workers=0", "log_every=1", "val_every=2", "save_every=2", "preview_every=2", "callbacks.previews.count=2",
]  # fmt: skip
OF_TRAINING = ("callbacks.", "data.val_samples", "val_every", "save_every", "preview_every", "log_every")
ENCODED = [override for override in SMALLEST if not override.startswith(OF_TRAINING)]  # what encoding takes
VAE = [*SMALLEST, "stage=vae", "stage.statistics_images=4", "stage.gan_start=1", "stage.gan_ramp=1", "stage.r1_every=2"]
FLOW = [*SMALLEST, "stage=flow", "callbacks.previews.seeds=2", "callbacks.previews.steps=2"]
Command = Callable[..., str | int | None]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """`python train.py …` in this process and an empty folder; returns what it passed to sys.exit."""
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level

    def run(*overrides: str, main: Callable[[], None] = train.main) -> str | int | None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(commands, "_failed_jobs", [])
        monkeypatch.setattr(commands, "_sweep_folders", set())
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        try:
            commands.run(main, after_sweep=train.answer_sweep)
        except SystemExit as stop:
            return stop.code
        return None

    monkeypatch.chdir(tmp_path)
    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def steps_of(run: Path) -> list[int]:
    return [int(row["step"]) for row in rows(run)]


def step_of(run: Path, name: str = "last.ckpt") -> int:
    return torch.load(run / "checkpoints" / name, weights_only=True)["global_step"]


def test_both_stages_leave_what_the_design_promises(command: Command) -> None:
    assert command(*VAE, "steps=4", "name=first") is None
    vae = Path("outputs/vae/first")
    assert command(*FLOW, "steps=4", f"vae={vae}", "name=second") is None
    flow = Path("outputs/flow/second")
    for run in (vae, flow):
        assert steps_of(run) == [1, 2, 3, 4]
        assert "val/loss" in rows(run)[-1]
        assert float(rows(run)[-1]["speed/images_per_second"]) > 0
        assert step_of(run) == 4
        assert step_of(run, "best.ckpt") in (2, 4)
        assert sorted(file.name for file in (run / "previews").iterdir()) == ["step_000002.png", "step_000004.png"]
        assert "step 4/4" in (run / "run.log").read_text()
        assert "${" not in (run / "config.yaml").read_text()
        assert [json.loads(line)["step"] for line in (run / "curves.jsonl").read_text().splitlines()] == [0, 2, 4]
        assert [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()] == [0, 4]
        assert ">finished<" in (run / "report.html").read_text()
        assert not (run / ".hydra").exists()
    assert {"train/logits_real", "train/grad_norm", "train/active_channels", "train/beta"} <= set(rows(vae)[-1])
    index = json.loads((flow / "model" / "model_index.json").read_text())
    assert index["flow_processor"] == ["fluxflow.models", "FluxFlowProcessor"]
    assert index["vae_hash"] == json.loads((vae / "model" / "model_index.json").read_text())["vae_hash"]
    assert load_vae(vae).std.min() > 0
    assert Image.open(flow / "previews" / "step_000004.png").width > 100


def test_a_flow_trains_from_encoded_latents(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """At two shapes a batch each; previews, export and refusals find what they need without a picture."""
    pictures = Path("pictures")
    pictures.mkdir()
    for number in range(12):
        Image.new("RGB", (24, 16) if number % 2 else (16, 16), (20 * number, 90, 30)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"a picture of number {number}")
    data = ["data=folder", "data.train=pictures", "data.val_fraction=0.4", "data.transform.buckets.max_aspect=2"]
    assert command(*VAE, "steps=2", "name=mine") is None
    options = [*ENCODED, *data, "vae=outputs/vae/mine", "name=mine"]
    assert command(*options, main=encode.main) is None
    assert command(*options, main=encode.main) is None, "there is nothing left to do"
    assert Path("outputs/encode/mine/config.yaml").is_file()
    flow = [*(override for override in FLOW if not override.startswith("data.image_size")), "data=latents",
            "data.train=outputs/encode/mine", "vae=outputs/vae/mine", "steps=4"]  # fmt: skip
    assert command(*flow, "name=cached") is None
    run = Path("outputs/flow/cached")
    assert steps_of(run) == [1, 2, 3, 4]
    assert float(rows(run)[-1]["val/loss"]) > 0
    assert Image.open(run / "previews" / "step_000004.png").width > 30
    assert load_model(run)[0].sample_size == (16, 16)
    assert command(*flow[:-1], "steps=6", "name=cached", "resume=auto") is None
    assert step_of(run) == 6
    assert command(*VAE, "seed=1", "steps=2", "name=other") is None
    another = [*flow[:-2], "vae=outputs/vae/other"]
    assert command(*another) == 1
    assert "encoded with something else: the VAE (sha256" in capsys.readouterr().err.splitlines()[-1]
    (pictures / "12.png").write_bytes((pictures / "0.png").read_bytes())
    assert command(*flow) == 1
    assert "has changed since outputs/encode/mine was encoded from it" in capsys.readouterr().err.splitlines()[-1]
    assert command(*options, "data.transform.flip=0", main=encode.main) == 1
    assert "the transform (mirrored true → false) and the source (" in capsys.readouterr().err.splitlines()[-1]


def test_other_versions_and_published_vaes_train(command: Command, tmp_path: Path) -> None:
    later = "model.version=0.7.0"
    assert command(*VAE, later, "steps=2", "name=mine") is None
    assert load_vae("outputs/vae/mine").mean.shape == (13,)
    theirs = published.write(tmp_path / "theirs" / "vae.safetensors", published.state("0.7.0"))
    assert "model.version=0.7.0" in refusal(command, *FLOW, "steps=2", f"vae={theirs}")
    assert command(*FLOW, later, "model.layout=published", "steps=2", f"vae={theirs}", "name=mine") is None
    index, parts = load_model("outputs/flow/mine")
    assert parts["flow_processor"].config["layout"] == "published"
    assert index.latent_mean == [0.0] * 13


@pytest.mark.slow
def test_a_run_goes_on_in_its_folder(command: Command) -> None:
    run = Path("outputs/vae/mine")
    assert command(*VAE, "steps=3", "name=mine") is None
    assert "already holds a run" in refusal(command, *VAE, "steps=3", "name=mine")
    assert command(*VAE, "steps=5", f"resume={run}") is None
    assert command(*VAE, "steps=6", "name=mine", "resume=auto") is None
    assert command(*VAE, "steps=6", "name=mine", "resume=auto") is None
    assert "is at step 6 already" in (run / "run.log").read_text()
    assert step_of(run) == 6
    assert steps_of(run) == [1, 2, 3, 4, 5, 6]
    assert [folder.name for folder in Path("outputs/vae").iterdir()] == ["mine"]
    assert "model.vae_dim is 8 there and 16 here" in refusal(command, *VAE, "model.vae_dim=16", f"resume={run}")


def test_the_model_folder_holds_the_averaged_weights(command: Command) -> None:
    assert command(*VAE, "steps=2", "name=mine") is None
    state = torch.load("outputs/vae/mine/checkpoints/last.ckpt", weights_only=True)
    average = next(value for key, value in state["callbacks"].items() if key.startswith("EMA"))["average"]
    exported = load_file("outputs/vae/mine/model/expander/model.safetensors")
    differing = 0
    for name, weight in exported.items():
        if f"expander.{name}" in average:
            assert torch.equal(weight, average[f"expander.{name}"])
            differing += not torch.equal(weight, state["state_dict"][f"latent_space.expander.{name}"])
    assert differing


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses(command: Command) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert command(*VAE, "steps=2", f"name={name}", f"seed={seed}") is None
    a, b, c = ([row["loss"] for row in rows(Path("outputs/vae") / name)] for name in "abc")
    assert a == b != c


def test_a_sweep_over_sizes_leaves_a_folder_a_job_and_an_answer(command: Command) -> None:
    sizes = ["model.vae_dim=8,16", "model.feat_dim=16", "seed=0,1", "val_every=2"]
    told = "+hydra.callbacks.told._target_=hydra.experimental.callbacks.LogJobReturnCallback"
    assert command("-m", *VAE, "steps=2", *sizes, "name=sizes", told) is None
    jobs = [config.parent for config in Path("outputs/sweeps/sizes").rglob("config.yaml")]
    assert len(jobs) == 4
    assert {len(load_vae(job).mean) for job in jobs} == {8, 16}
    assert all(step_of(job) == 2 for job in jobs)
    table = Path("outputs/sweeps/sizes/sweep.csv").read_text(encoding="utf-8")
    answer = list(csv.DictReader(table.splitlines()))
    assert {(row["model.vae_dim"], row["seed"]) for row in answer} == {(d, s) for d in ("8", "16") for s in "01"}
    assert all(float(row["val/psnr"]) > 0 for row in answer)
    for job in jobs:  # what a sweeper that tunes is given
        returned = re.findall(r"return value: (.*)", (job / "run.log").read_text())
        assert float(returned[-1]) == pytest.approx(float(rows(job)[-1]["val/loss"]), rel=1e-4)
    assert "Pareto" in Path("outputs/sweeps/sizes/sweep.html").read_text(encoding="utf-8")


def test_a_sweep_goes_on_after_a_failed_job_and_names_it(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [override for override in VAE if not override.startswith("data.image_size")]
    failed = command("-m", *overrides, "steps=1", "data.image_size=18,16", "name=sizes")
    assert isinstance(failed, str)
    assert failed.startswith("error: 1 of the jobs failed: ")
    assert "data.image_size=18" in failed
    assert "error: data.image_size=18 is not a multiple of 4" in capsys.readouterr().err
    assert len(list(Path("outputs/sweeps/sizes").rglob("last.ckpt"))) == 1


def test_an_error_leaves_no_worker(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the process would wait for them, and the next job of a sweep would share its cores with them."""
    Path("pictures").mkdir()
    for number in range(6):
        Image.new("RGB", (16, 16)).save(f"pictures/{number}.png")
        Path(f"pictures/{number}.txt").write_text("a red dress")
    assert command(*VAE, "data=folder", "data.train=pictures", "data.num_workers=2", "steps=2") == 1
    assert "raise data.val_fraction" in capsys.readouterr().err
    assert multiprocessing.active_children() == []


def test_a_model_that_is_not_finite_is_not_exported(command: Command) -> None:
    run = Path("outputs/vae/mine")
    assert command(*VAE, "steps=4", "name=mine", "stage.optimizer.lr=1e6") is None
    found = (run / "run.log").read_text()
    assert f"step 4: {run.absolute()}/model is not written: numbers of its latent_mean, latent_std" in found
    assert step_of(run) == 4


def refusal(command: Command, *overrides: str) -> str:
    """The one line with which a command is refused before it leaves anything behind."""
    before = sorted(Path().rglob("*/*/*"))
    stderr = sys.stderr
    lines: list[str] = []
    try:
        sys.stderr = type("Lines", (), {"write": lambda self, text: lines.append(text), "flush": lambda self: None})()
        code = command(*overrides)
    finally:
        sys.stderr = stderr
    message = code if isinstance(code, str) else "".join(lines).strip()
    assert message.startswith("error: "), message
    assert "\n" not in message
    assert code not in (None, 0)
    assert sorted(Path().rglob("*/*/*")) == before
    return message


def test_what_a_resumed_run_changes_takes_effect_and_is_said(command: Command) -> None:
    assert command(*VAE, "steps=2", "name=mine") is None
    assert command(*VAE, "steps=3", "resume=auto", "stage.optimizer.lr=1e-7", "stage.optimizer.betas=[0.5,0.9]") is None
    run = Path("outputs/vae/mine")
    groups = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert max(group["initial_lr"] for group in groups) < 1e-7
    assert {tuple(group["betas"]) for group in groups} == {(0.5, 0.9)}
    assert "stage.optimizer.lr 0.005 → 1e-07" in (run / "run.log").read_text()
    message = refusal(command, *VAE, "steps=4", f"resume={run}", "stage.optimizer._target_=torch.optim.Adam")
    assert "stage.optimizer._target_ is fluxflow.training.relative_adamw there and torch.optim.Adam here" in message


@pytest.mark.slow
def test_a_finished_run_mends_its_model_and_passes_over_a_damaged_checkpoint(command: Command) -> None:
    run = Path("outputs/vae/mine")
    assert command(*VAE, "steps=2", "name=mine") is None
    whole = {path: path.read_bytes() for path in (run / "model").rglob("*.*") if path.is_file()}
    (run / "model" / "expander" / "model.safetensors").write_bytes(b"torn")
    assert command(*VAE, "steps=2", "resume=auto") is None
    assert {path: path.read_bytes() for path in (run / "model").rglob("*.*") if path.is_file()} == whole
    (run / "model" / "model_index.json").unlink()
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-5000])
    assert command(*VAE, "steps=2", "resume=auto") is None
    assert f"Passed over: {last.absolute()} is damaged" in (run / "run.log").read_text()
    assert {path: path.read_bytes() for path in (run / "model").rglob("*.*") if path.is_file()} == whole


@pytest.mark.slow
def test_optuna_tunes(command: Command) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    study = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=0"]
    rate = "stage.optimizer.lr=tag(log,interval(1e-5,1e-1))"
    assert command("-m", *VAE, *study, rate, "steps=2", "name=tuned") is None
    found = yaml.safe_load(Path("outputs/sweeps/tuned/optimization_results.yaml").read_text())
    jobs = [last.parents[1] for last in Path("outputs/sweeps/tuned").glob("*/checkpoints/last.ckpt")]
    rates = [yaml.safe_load((job / "config.yaml").read_text())["stage"]["optimizer"]["lr"] for job in jobs]
    losses = {rate: float(rows(job)[-1]["val/loss"]) for rate, job in zip(rates, jobs, strict=True)}
    assert len(losses) == 3
    best = min(losses, key=lambda rate: losses[rate])
    assert found["best_params"]["stage.optimizer.lr"] == pytest.approx(best)
    assert found["best_value"] == pytest.approx(losses[best], rel=1e-4)


@pytest.mark.slow
def test_a_repeated_sweep_goes_on_with_more_steps(command: Command) -> None:
    assert command("-m", *VAE, "steps=1", "stage.beta=0.1,0.2") is None
    (sweep,) = Path("outputs/sweeps").iterdir()
    assert command("-m", *VAE, "steps=2", "val_every=1", "stage.beta=0.1,0.2", "resume=auto") is None
    assert list(Path("outputs/sweeps").iterdir()) == [sweep]
    jobs = [last.parents[1] for last in sweep.glob("*/checkpoints/last.ckpt")]
    assert [step_of(job) for job in jobs] == [2, 2]
    assert all(steps_of(job) == [1, 2] for job in jobs)


@pytest.mark.slow
def test_a_sweep_over_steps_has_a_folder_for_each(command: Command) -> None:
    assert command("-m", *VAE, "steps=1,2", "name=lengths") is None
    jobs = [last.parents[1] for last in Path("outputs/sweeps/lengths").glob("*/checkpoints/last.ckpt")]
    assert sorted(step_of(job) for job in jobs) == [1, 2]


def test_a_run_that_another_process_works_in_is_refused(command: Command) -> None:
    process = holder(Path("outputs/vae/mine").absolute())
    try:
        for stage in ([*VAE, "name=mine"], [*VAE, "name=mine", "resume=auto"]):
            assert "Another process works in" in refusal(command, *stage, "steps=1")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.vae_dmi=64"], "error: unknown key 'model.vae_dmi': did you mean 'model.vae_dim'?"),
        (["model=defualt"], "error: unknown value 'defualt' for 'model': did you mean 'default'?"),
        (["precision=bf17"], "did you mean 'bf16'?"),
        (["steps=abc"], "error: steps must be a whole number, not 'abc'."),
        (["data.batch_size=-1"], "error: data.batch_size must be at least 1, not -1."),
        (["data.image_size=50"], "take 48 or 64"),
        (["data.flip=0"], "error: unknown key 'data.flip': did you mean 'data.transform.flip'?"),
        (["data.max_aspect=2"], "did you mean 'data.transform.buckets.max_aspect'?"),
        (["precision=fp16"], "precision=bf16 or fp32"),
        (["stage=flow"], "needs the VAE of stage 1"),
        (["stage=flow", "vae=outputs/vae/none"], "There is no outputs/vae/none"),
        (["resume=outputs/vae/none"], "there is no outputs/vae/none"),
        (["stage._target_=os.system"], "unknown value 'os.system' for 'stage._target_'"),
        (["+stage.optimizer.learning_rate=1"], "unknown key 'stage.optimizer.learning_rate'"),
        (["steps=[1"], "steps=[1 cannot be read"),
        (["precision=16"], "unknown value '16' for 'precision'"),
        (["data=[demo,folder]"], "data takes one of demo, folder"),
        (["text=null"], "text is missing"),
        (["name="], "name='' names no folder"),
        (["name=a/b"], "name='a/b' names no folder"),
        (["data=shards", "data.train=2024"], "There is no shard 2024"),
        (["resume=2024"], "there is no 2024"),
        (
            ["trainer.gradient_clip_val=1"],
            "'trainer.gradient_clip_val' is not in the config yet: +trainer.gradient_clip_val=",
        ),
        (["callbacks.mine=1"], "'+callbacks.mine={_target_: …}' adds one"),
        (["stage.optimizer._target_=torch.optim.RMSprob"], "did you mean 'torch.optim.RMSprop'?"),
        (["steps=" + "1" * 5000], "4300 digits"),
    ],
)
def test_mistakes_are_one_line(command: Command, overrides: list[str], message: str) -> None:
    assert message in refusal(command, *overrides)


def test_missing_data_and_an_unreachable_text_model_are_one_line(command: Command) -> None:
    assert "nowhere" in refusal(command, *VAE, "data=folder", "data.train=nowhere")
    assert command(*VAE, "steps=1", "name=mine") is None
    unreachable = [*FLOW, "steps=1", "vae=outputs/vae/mine", "text=distilbert", "text.pretrain_model=no/such-model"]
    assert "text=minilm works offline" in refusal(command, *unreachable)


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["-sc", "query=bash"]])
def test_help_config_and_completion_do_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import atexit, sys, runpy\n"
        "atexit.register(lambda: sys.exit(3) if {'torch', 'lightning'} & set(sys.modules) else print('light'))\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    environment = os.environ | {"COMP_LINE": "train.py model=", "COMP_POINT": "15"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.endswith("light\n"), done.stdout + done.stderr


def test_help_ends_quietly_when_nobody_reads_on() -> None:
    command = [sys.executable, str(ROOT / "train.py"), "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_saves_and_exits_with_its_number(number: int, tmp_path: Path) -> None:
    """Also where it reaches the workers of the loader, which the step under way needs."""
    arguments = [sys.executable, str(ROOT / "train.py"), *VAE, "steps=100000", "callbacks.progress.every_seconds=0.1"]
    process = subprocess.Popen([*arguments, "name=mine", "data.num_workers=1"], cwd=tmp_path, stdout=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    run = tmp_path / "outputs/vae/mine"
    assert step_of(run) == steps_of(run)[-1] > 0
    assert ">stopped<" in (run / "report.html").read_text()


@pytest.mark.parametrize("data", ["folder", "shards"])
def test_stage_1_trains_on_pictures_without_captions(
    data: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 99, 0)).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "3.txt").write_text("a green square")
    if data == "shards":
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            tar.add(tmp_path / "in", ".")
    source = tmp_path / ("in" if data == "folder" else "0.tar")
    given = [*VAE, f"data={data}", f"data.train={source}", "data.val_fraction=0.4", "steps=2", "name=bare"]
    assert command(*given) is None
    assert Path("outputs/vae/bare/previews/step_000002.png").is_file()
    assert not Path("outputs/vae/bare/rejected.jsonl").exists()
    assert command(*given, "needs_captions=true", "name=refused") == 1
    assert "no caption" in capsys.readouterr().err


def test_rows_are_in_the_file_before_the_next_step(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed then loses none."""
    found = []

    def look(callback: Progress, trainer: Trainer, *_: Any) -> None:
        found.append((trainer.global_step, steps_of(run) if trainer.global_step else []))

    run = Path("outputs/vae/mine")
    monkeypatch.setattr(Progress, "on_train_batch_start", look)
    assert command(*VAE, "steps=4", "name=mine") is None
    assert found == [(step, list(range(1, step + 1))) for step in range(4)]
