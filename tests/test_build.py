import pkgutil
import tomllib
from pathlib import Path

import pytest

from fluxflow.commands import sizes
from fluxflow.commands.objects import CONFIGS, PACKAGE

# The sizes that the original reports (docs/architecture.md).
PUBLISHED = {
    "FluxCompressor (compressor)": 12_580_553,
    "FluxExpander (expander)": 94_073_551,
    "PatchDiscriminator (discriminator)": 45_105_473,
    "FluxFlowProcessor (flow_processor)": 5_373_824,
}


def test_the_default_model_has_the_published_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    sizes.main(["model=default", "text=distilbert", "text.pretrain_model=null"])
    table = capsys.readouterr().out.splitlines()
    counts = {line[:38].strip(): int(line[38:51].replace(",", "")) for line in table}
    assert counts.pop("BertTextEncoder (text_encoder)") // 100_000 == 709  # 71.0 M
    assert counts == PUBLISHED


def test_the_configs_lie_beside_the_package() -> None:
    assert Path(CONFIGS / "train.yaml").is_file()


def test_the_installed_commands_exist_and_the_wheel_has_the_configs() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    scripts = project["project"]["scripts"]
    assert set(scripts) == {"fluxflow-train", "fluxflow-sample"}
    assert all(callable(pkgutil.resolve_name(where)) for where in scripts.values())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"configs": "fluxflow/configs"}
    assert CONFIGS in (PACKAGE / "configs", PACKAGE.parent / "configs")
