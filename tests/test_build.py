from pathlib import Path

import pytest

from fluxflow import build

# The sizes that the original reports (docs/architecture.md).
PUBLISHED = {
    "FluxCompressor (compressor)": 12_580_553,
    "FluxExpander (expander)": 94_073_551,
    "PatchDiscriminator (discriminator)": 45_105_473,
    "FluxFlowProcessor (flow_processor)": 5_373_824,
}


def test_the_default_model_has_the_published_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    build.main(["sizes", "model=default", "text=distilbert", "text.pretrain_model=null"])
    table = capsys.readouterr().out.splitlines()
    counts = {line[:38].strip(): int(line[38:51].replace(",", "")) for line in table}
    assert counts.pop("BertTextEncoder (text_encoder)") // 100_000 == 709  # 71.0 M
    assert counts == PUBLISHED


def test_sizes_is_the_only_command() -> None:
    with pytest.raises(SystemExit, match="usage"):
        build.main(["size"])


def test_the_configs_lie_beside_the_package() -> None:
    assert Path(build.CONFIGS / "train.yaml").is_file()
