"""Every command of the README runs, in the order in which it stands there, on the smallest networks."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests import published
from tests.test_train import ENCODED, SMALLEST

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    line
    for language, block in BLOCKS
    for line in block.splitlines()
    if not language and line.startswith(("make ", "python "))
]
SMALL = {
    "train.py": [*SMALLEST, "steps=2", "stage.statistics_images=4", "callbacks.previews.steps=2", "name=run"],
    "sample.py": ["steps=2", "count=2"],
    "fluxflow.data.encode": [*ENCODED, "name=run"],
}


def small(arguments: list[str], script: str) -> list[str]:
    """The command's own arguments, and those that make it small as far as it leaves them open."""
    if arguments == ["resume=auto"]:  # the options of the run are to be repeated
        arguments = ["model=v1_tiny", *arguments]
    own = {argument.split("=")[0] for argument in arguments}
    extra = [option for option in SMALL[script] if option.split("=")[0] not in own]
    if "data=latents" in arguments:
        extra = [*(option for option in extra if not option.startswith(("name=", "data.image_size="))), "name=cached"]
    if "model=v1_tiny" in arguments:  # its VAE has no attention
        extra = [option for option in extra if not option.startswith("model.attn_")]
    if "stage=flow" not in arguments:
        extra = [option for option in extra if option != "callbacks.previews.steps=2"]
    elif script == "train.py":
        extra = [option for option in extra if not option.startswith("stage.")]
    return arguments + extra


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command.split("  #")[0].replace("<run>", "run"))
    assert program == "python"
    if arguments[0] == "-m":
        if arguments[1] == "fluxflow.data.encode":
            arguments = [arguments[0], *small(arguments[1:], arguments[1])]
        if arguments[1] == "fluxflow.evaluate":
            arguments += ["--count", "20", "--training", "20", "--prompts", "2", "--steps", "2"]
        monkeypatch.setattr(sys, "argv", arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__")
        return
    script, *arguments = arguments
    if arguments != ["--help"]:
        arguments = small(arguments, script)
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
    runpy.run_path(str(ROOT / script), run_name="__main__")


def exit_code(command: str, monkeypatch: pytest.MonkeyPatch) -> object:
    try:
        run(command, monkeypatch)
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_readme_names_only_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in COMMANDS:
        program, argument = command.split()[:2]
        if program == "make":
            assert re.search(rf"^{argument}:", makefile, re.MULTILINE), command
        elif program == "python" and argument.endswith(".py"):
            assert (ROOT / argument).is_file(), command


@pytest.mark.slow
def test_every_python_command_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        Image.new("RGB", (40, 40), (80 * index, 30, 60)).save(tmp_path / "pictures" / f"{index}.png")
        (tmp_path / "pictures" / f"{index}.txt").write_text("a plain colour")
    published.write_folder(tmp_path / "theirs")
    words = published.write_tokenizer(tmp_path / "words")
    monkeypatch.setattr("fluxflow.published.reader.TEXT_MODEL", words)  # which would come from the hub
    commands = [command for command in COMMANDS if command.startswith("python ")]
    assert len(commands) >= 7
    for command in commands:
        assert not exit_code(command, monkeypatch), command
    assert (tmp_path / "outputs/flow/run/model/model_index.json").is_file()
    assert list((tmp_path / "outputs/flow/run/samples").glob("*.png"))
    assert (tmp_path / "outputs/encode/run/val/index.json").is_file()
    assert (tmp_path / "outputs/flow/cached/model/model_index.json").is_file()
    assert list((tmp_path / "shards").rglob("*.tar"))
