"""The page: one file without anything from elsewhere, for one run or several."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from fluxflow import __version__
from fluxflow.files import replacing
from fluxflow.report import evaluation, sections
from fluxflow.report.figures import SMOOTHED
from fluxflow.report.findings import CHECKS, find, rejected_count
from fluxflow.report.pictures import BUDGET, Picture, embed
from fluxflow.report.read import read_run
from fluxflow.report.run import Run

NAME = "report.html"
PLACES = ("run_dir", "name", "output_dir", "resume", "logger")  # keys that differ between any two runs
SAMPLES = 24  # images of samples/ on the page


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the page about one run, or about several.

    Args:
        folders: of the runs.
        out: the file; None: `report.html` in the folder of the run, or `outputs/report.html` for several.

    Returns:
        The file.

    Raises:
        CheckpointError: a folder holds no run.
        StorageError: the file cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    path = Path(out) if out else (runs[0].folder if len(runs) == 1 else Path("outputs")) / NAME
    text = render_run(runs[0]) if len(runs) == 1 else render_comparison(runs)
    with replacing(path) as file:
        file.write(text.encode("utf-8", "replace"))
    return path


def render_run(run: Run) -> str:
    """The page about one run."""
    half = BUDGET // 2
    samples = embed([(file.stem, file) for file in run.samples[:SAMPLES]], half)
    left = BUDGET - sum(len(picture.uri) for picture in samples)
    previews = embed([(f"step {preview.step:,}", preview.path) for preview in run.previews], left)
    latents, about_latents = sections.latents(run)
    return render(
        "run.html",
        title=run.name,
        run=run,
        findings=find(run),
        checks=[(check.__doc__ or "").strip() for check in CHECKS],
        keys=list(sections.key_figures(run)),
        facts=[(name, value) for name, value in sections.facts(run) if value],
        previews=previews,
        previews_note=_shown(previews, len(run.previews), "image grids"),
        samples=samples,
        samples_note=_shown(samples, len(run.samples), "images"),
        groups=sections.metric_groups([run], [run.name]),
        activations=sections.activations(run),
        latents=latents,
        about_latents=about_latents,
        evaluation=run.evaluation,
        about_evaluation=evaluation.about(run.evaluation or {}),
        measures=evaluation.measures(run.evaluation or {}),
        evaluation_plots=evaluation.plots(run.evaluation or {}),
        rejected_count=rejected_count(run),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
    )


def render_comparison(runs: Sequence[Run]) -> str:
    """The page about several runs."""
    labels = distinct_names(runs)
    pictures = [
        picture
        for label, run in zip(labels, runs)
        for picture in embed(
            [(f"{label}, step {last.step:,}", last.path) for last in run.previews[-1:]], BUDGET // len(runs)
        )
    ]
    return render(
        "compare.html",
        title=f"{len(runs)} runs",
        runs=list(zip(labels, runs, [find(run) for run in runs])),
        table=list(comparison(runs)),
        differing=differing(runs),
        pictures=pictures,
        smoothed=SMOOTHED,
        groups=sections.metric_groups(runs, labels),
    )


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: as much of its folder's path as tells all of them apart."""
    parts = [run.folder.absolute().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{run.name} ({number})" for number, run in enumerate(runs, 1)]  # one folder given twice


def comparison(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """Rows of the table: a title, and a text for each run."""
    yield "state", [run.state for run in runs]
    yield "stage", [run.stage for run in runs]
    yield "steps", [f"{run.step:,}" for run in runs]
    yield "time", [sections.duration(run.seconds) if run.seconds else "" for run in runs]
    for name in dict.fromkeys(name for run in runs for name in sections.held_out(run)):
        found = [run.metrics.get(name) for run in runs]
        yield f"{name}, last", [sections.short(float(one.values[-1])) if one else "" for one in found]
        tops = [sections.best(name, one) if one else None for one in found]
        if any(tops):
            yield f"{name}, best", [f"{sections.short(top[0])} (step {top[1]:,})" if top else "" for top in tops]
    titles = {"images_per_second": "images/s", "peak_memory_gb": "peak memory, GB"}
    for name, title in titles.items():
        series = [run.metrics.get(f"speed/{name}") for run in runs]
        yield title, [sections.short(float(one.values[-1])) if one else "" for one in series]
    yield "device", [str(run.start.get("device", "")) for run in runs]


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Keys of the config whose values differ, with the value of each run; folders of runs apart."""
    flat = []
    for run in runs:
        own = str(run.config.get("run_dir", run.folder))
        flat.append({key: str(value) for key, value in flatten(run.config) if own not in str(value)})
    keys = [key for key in dict.fromkeys(itertools.chain(*flat)) if key.partition(".")[0] not in PLACES]
    rows = [(key, [config.get(key, "–") for config in flat]) for key in keys]
    return [(key, row) for key, row in rows if len(set(row)) > 1]


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested config."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(pictures: Sequence[Picture], count: int, what: str) -> str:
    """A sentence where a page has fewer pictures than the folder."""
    return f"{len(pictures)} of {count:,} {what}, so that the page stays small." if len(pictures) < count else ""


def render(template: str, **content: Any) -> str:
    """Fill a template of `templates/` in; everything from a run is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    shared = {"plotly": get_plotlyjs(), "version": __version__, "written": written}
    return environment.get_template(template).render(**shared, **content)
