"""The import directions of docs/architecture.md, read from the source."""

import re
import subprocess
import sys

import pytest

from tests.imports import MODULES, ROOT, closure, foreign, importers, imports, inside, roots

HEAVY = {"torch", "lightning", "transformers", "diffusers", "torchmetrics", "webdataset", "numpy"}
# Of the imported names that differ. Triton belongs to PyTorch's CUDA builds, and is imported where there is one.
DISTRIBUTIONS = {"hydra": "hydra-core", "PIL": "pillow", "yaml": "pyyaml", "triton": "torch"}
ALSO = {"fluxflow.diffusion.sampler": ["diffusers"], "fluxflow.kernels.bezier_triton": ["triton"]}


@pytest.mark.parametrize("package", ["fluxflow.losses", "fluxflow.diffusion", "fluxflow.kernels"])
def test_mathematics_imports_torch_alone(package):
    for module in inside(package):
        allowed = {"torch", *ALSO.get(module, ())}
        assert foreign(module) <= allowed, module
        assert all(name.startswith(package) for name in imports(module) if name.startswith("fluxflow")), module


def test_lightning_is_known_to_training_and_the_datamodule():
    allowed = {*inside("fluxflow.training"), "fluxflow.data.datamodule"}
    assert importers("lightning") <= allowed
    assert importers("pytorch_lightning") == set()


def test_hydra_is_known_to_the_commands_and_the_builder():
    assert importers("hydra") <= {
        "train",
        "sample",
        "fluxflow.build",
        "fluxflow.commands",
        "fluxflow.objects",
        "fluxflow.overrides",
    }


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("fluxflow.kernels", "fluxflow.models"),
        ("fluxflow.models", "fluxflow.training"),
        ("fluxflow.models", "fluxflow.data"),
        ("fluxflow.models", "fluxflow.diffusion"),
        ("fluxflow.models", "fluxflow.losses"),
        ("fluxflow.data", "fluxflow.models"),
        ("fluxflow.data", "fluxflow.training"),
        ("fluxflow.checkpoint", "fluxflow.training"),
        ("fluxflow.pipeline", "fluxflow.training"),
        ("fluxflow.pictures", "fluxflow.models"),
        ("fluxflow.training", "fluxflow.build"),
        ("fluxflow", "train"),
        ("fluxflow", "sample"),
    ],
)
def test_imports_go_one_way(lower, higher):
    for module in inside(lower):
        assert not any(f"{name}.".startswith(f"{higher}.") for name in imports(module)), module


def test_pipeline_and_drawing_reach_no_training():
    """Not through others either; what the builder imports on demand, it imports for train.py."""
    reached = closure("sample", on_demand=True)
    assert {"fluxflow.pipeline", "fluxflow.data.shards"} <= reached
    assert not any(name.startswith("fluxflow.training") for name in reached)
    assert "lightning" not in roots(reached)


def test_commands_answer_without_heavy_imports():
    """--help, --cfg and completion run what train.py and sample.py import at their top."""
    for command in ("train", "sample"):
        assert roots(closure(command, on_demand=False)) & HEAVY == set(), command


def test_importing_the_package_is_light():
    code = "import sys, fluxflow; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert roots(set(output.split())) & HEAVY == set()


def test_torchvision_is_never_imported():
    assert importers("torchvision") == set()


def requirements(listed: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[ ]", requirement)[0].replace("-", "_") for requirement in listed}


def test_what_is_imported_is_declared():
    """Required dependencies cover all imports of the package: a transitive one may leave with the next release.

    What a function imports on demand may also come with an extra.
    """
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [extra for name, extra in project["optional-dependencies"].items() if name != "dev"]
    declared = {False: requirements(project["dependencies"])}
    declared[True] = declared[False].union(*map(requirements, extras))
    for on_demand, known in declared.items():
        names = {name for module in MODULES for name in foreign(module, on_demand)}
        assert {DISTRIBUTIONS.get(name, name).replace("-", "_") for name in names} <= known
