"""The import directions of docs/architecture.md, read from the source."""

import ast
import re
import subprocess
import sys

import pytest

from tests.imports import (
    MODULES,
    ROOT,
    circles,
    closure,
    foreign,
    importers,
    imports,
    inside,
    lines,
    roots,
    statements,
)

HEAVY = {"torch", "lightning", "transformers", "diffusers", "torchmetrics", "webdataset", "numpy"}
ROOMS = [f"fluxflow.{room}" for room in ("models", "data", "diffusion", "training", "checkpoint", "published")]
# Of the imported names that differ. Triton belongs to PyTorch's CUDA builds, and is imported where there is one.
DISTRIBUTIONS = {"hydra": "hydra-core", "PIL": "pillow", "yaml": "pyyaml", "triton": "torch"}
LAZY = {name for name, path in MODULES.items() if "exports(" in path.read_text(encoding="utf-8")} - {"fluxflow.lazy"}
# Commands that lie beside what they are about: `python -m fluxflow.data.encode`.
DOORS = {"fluxflow.data.encode", "fluxflow.evaluate"}
ALSO = {"fluxflow.diffusion.sampler": ["diffusers"], "fluxflow.kernels.bezier_triton": ["triton"]}


@pytest.mark.parametrize("package", ["fluxflow.losses", "fluxflow.diffusion", "fluxflow.kernels"])
def test_mathematics_imports_torch_alone(package):
    for module in inside(package):
        allowed = {"torch", *ALSO.get(module, ())}
        assert foreign(module) <= allowed, module
        assert all(name.startswith(package) for name in imports(module) if name.startswith("fluxflow")), module


def test_lightning_is_known_to_training_and_the_datamodules():
    data = {"datamodule", "latents.encoder", "latents.latent_datamodule"}
    allowed = {*inside("fluxflow.training"), *(f"fluxflow.data.{name}" for name in data)}
    assert importers("lightning") <= allowed
    assert importers("pytorch_lightning") == set()


def test_hydra_is_known_to_the_commands_alone():
    assert importers("hydra") <= {*inside("fluxflow.commands")}


def test_the_report_reads_files_alone():
    """So that it starts at once, and reads runs of other versions."""
    for module in inside("fluxflow.report"):
        assert foreign(module) <= {"numpy", "plotly", "jinja2", "yaml", "PIL"}, module
    ours = closure("fluxflow.report.__main__") & set(MODULES) - set(inside("fluxflow.report"))
    light = {"claims", "errors", "files", "json_lines", "runs", "signals", "threads"}
    assert ours <= {"fluxflow", *(f"fluxflow.{name}" for name in light)}, ours
    assert importers("plotly") | importers("jinja2") <= set(inside("fluxflow.report"))


def test_nothing_imports_in_a_circle():
    assert circles() == []


def test_a_training_step_can_be_read_in_an_afternoon():
    for stage in ("vae", "flow"):
        ours = closure(f"fluxflow.training.{stage}", on_demand=False) & set(MODULES)
        assert len(ours) <= 45, sorted(ours)
        assert sum(lines(MODULES[name]) for name in ours) <= 5150, stage


def test_the_package_itself_uses_no_name_that_is_there_for_users():
    """`from fluxflow.models import FluxExpander` would hide which module it comes from, and what comes with that."""
    for module in MODULES:
        for node in statements(ast.parse(MODULES[module].read_text(encoding="utf-8")), on_demand=True):
            if isinstance(node, ast.ImportFrom) and node.module in LAZY and MODULES[module].name != "__init__.py":
                assert all(f"{node.module}.{name.name}" in MODULES for name in node.names), module


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("fluxflow.kernels", "fluxflow.models"),
        ("fluxflow.models", "fluxflow.training"),
        ("fluxflow.models", "fluxflow.data"),
        ("fluxflow.models", "fluxflow.diffusion"),
        ("fluxflow.models", "fluxflow.losses"),
        ("fluxflow.models", "fluxflow.checkpoint"),
        ("fluxflow.models", "fluxflow.pipeline"),
        ("fluxflow.published", "fluxflow.pipeline"),
        ("fluxflow.data", "fluxflow.models"),
        ("fluxflow.data", "fluxflow.training"),
        ("fluxflow.data", "fluxflow.metrics"),
        ("fluxflow.metrics", "fluxflow.training"),
        ("fluxflow.metrics.shapes", "fluxflow.models"),
        ("fluxflow.checkpoint", "fluxflow.training"),
        ("fluxflow.checkpoint", "fluxflow.pipeline"),
        ("fluxflow.pipeline", "fluxflow.training"),
        ("fluxflow.image_grid", "fluxflow.models"),
        *((room, "fluxflow.commands") for room in ROOMS),
        ("fluxflow", "train"),
        ("fluxflow", "sample"),
    ],
)
def test_imports_go_one_way(lower, higher):
    for module in set(inside(lower)) - DOORS:
        assert not any(f"{name}.".startswith(f"{higher}.") for name in imports(module)), module


def test_pipeline_and_sampling_reach_no_training():
    """Not through others either; what the builder imports on demand, it imports for train.py."""
    reached = closure("sample", on_demand=True)
    assert {"fluxflow.pipeline", "fluxflow.data.sources.shards"} <= reached
    assert not any(name.startswith("fluxflow.training") for name in reached)
    assert "lightning" not in roots(reached)


def test_commands_answer_without_heavy_imports():
    """--help, --cfg and completion run what train.py and sample.py import at their top."""
    for command in ("train", "sample"):
        assert roots(closure(command, on_demand=False)) & HEAVY == set(), command


def test_scenes_of_shapes_are_made_without_torch():
    assert roots(closure("fluxflow.data.shapes.reader")) & {"torch", "lightning"} == set()


def test_importing_the_package_is_light():
    code = "import sys, fluxflow; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert roots(set(output.split())) & HEAVY == set()


def test_the_training_modules_load_neither_diffusers_nor_published_checkpoints():
    code = "import sys; from fluxflow.training import FlowLitModule, VAELitModule; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(output.split()) & {"diffusers", "fluxflow.published.reader", "fluxflow.checkpoint.model"} == set()


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
