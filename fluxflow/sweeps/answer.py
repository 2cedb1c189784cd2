"""The answer of a sweep as sweep.csv, sweep.md and sweep.html in its folder."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxflow.errors import CheckpointError
from fluxflow.files import replacing
from fluxflow.metrics.intervals import Interval
from fluxflow.report.figures import COLOURS, empty_figure
from fluxflow.report.page import render
from fluxflow.report.sections import Plot, plot
from fluxflow.sweeps.jobs import COSTS, find_runs, read_jobs
from fluxflow.sweeps.ranking import Better, Comparison, Model, comparisons, models_of, pareto_front, ranked, warnings

NAME = "sweep"


@dataclass(frozen=True)
class Answer:
    """What a sweep found.

    Args:
        measure: by which models are ranked.
        better: whether more of it is better.
        models: from best to worst.
        comparisons: of the best with each of the others.
        warnings: what makes them unfair or weak.
    """

    measure: str
    better: Better
    models: list[Model]
    comparisons: list[Comparison]
    warnings: list[str]

    @property
    def costs(self) -> dict[str, str]:
        """The costs that some model knows: name → title."""
        return {name: title for name, title in COSTS.items() if any(not math.isnan(m.cost(name)) for m in self.models)}

    @property
    def sentences(self) -> list[str]:
        """One for each comparison."""
        return [found.sentence(self.measure) for found in self.comparisons]

    @property
    def verdict(self) -> str:
        """The sentence that one reads first."""
        if not self.comparisons:
            return f"There is one model alone: {self.models[0].label}. Nothing is compared."
        best, better = self.comparisons[0].best, [c for c in self.comparisons if c.verdict.word == "better"]
        if len(better) == len(self.comparisons):
            return f"{best.label} is best: better than each other model."
        open_ = ", ".join(c.other.label for c in self.comparisons if c.verdict.word != "better")
        return f"{best.label} is first, but at these seeds it cannot be told from {open_}."


def answer(folders: Sequence[str | Path], measure: str | None = None) -> Answer:
    """Read runs and rank their models.

    Raises:
        CheckpointError: there are no runs.
        ConfigError: runs of both stages, or a measure that none of them has.
    """
    jobs, measure, better = read_jobs(find_runs(folders), measure)
    models = ranked(models_of(jobs), better)
    return Answer(measure, better, models, comparisons(models, better), warnings(models))


def write_answer(folders: Sequence[str | Path], measure: str | None = None, out: str | Path | None = None) -> Answer:
    """Write the three files into the folder of the sweep, or into `out`, and return what they say.

    Raises:
        As `answer`, and StorageError where they cannot be written.
    """
    if out is None and (len(folders) != 1 or not Path(folders[0]).is_dir()):
        raise CheckpointError("Several folders have no place in common: name the folder of the answer by --out.")
    found, out = answer(folders, measure), Path(out or folders[0])
    for suffix, text in {"csv": as_csv(found), "md": as_markdown(found), "html": as_html(found)}.items():
        with replacing(out / f"{NAME}.{suffix}") as file:
            file.write(text.encode("utf-8", "replace"))
    return found


def as_csv(found: Answer) -> str:
    """A row a job, with all that is known of it."""
    options = list(dict.fromkeys(key for model in found.models for key in model.options))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rank", *options, "seed", found.measure, *found.costs, "images", "run", "problem"])
    for rank, model in enumerate(found.models, 1):
        for job in model.jobs:
            costs = [job.costs.get(name, "") for name in found.costs]
            images = "" if math.isnan(job.budget) else round(job.budget)
            value = "" if job.value is None else job.value
            chosen = [model.options.get(key, "") for key in options]
            rows.writerow([rank, *chosen, job.seed, value, *costs, images, job.name, job.problem])
    return text.getvalue()


def table(found: Answer) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the ranked models."""
    titles = ["", "model", f"{found.measure} (95 % over seeds)", "seeds", *found.costs.values(), "against the first"]
    words = {id(one.other): one.verdict.word for one in found.comparisons}
    words |= {id(one.other): "worse" for one in found.comparisons if one.verdict.word == "better"}
    rows = []
    for rank, model in enumerate(found.models, 1):
        costs = [short(model.cost(name)) for name in found.costs]
        row = [str(rank), model.label, spread(model.interval) if model.values else "–", str(len(model.values)), *costs]
        rows.append([*row, words.get(id(model), "" if rank == 1 else "no value")])
    return titles, rows


def as_markdown(found: Answer) -> str:
    """The verdict, the table, a sentence for each comparison, and what to beware of."""
    titles, rows = table(found)
    lines = [found.verdict, "", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"- {sentence}" for sentence in found.sentences)]
    if found.warnings:
        lines += ["", "Beware:", "", *(f"- {sentence}" for sentence in found.warnings)]
    return "\n".join(lines) + "\n"


def as_html(found: Answer) -> str:
    """A page with the table, and for each cost a plot of quality against it with the Pareto front."""
    titles, rows = table(found)
    plots = [front_plot(found, name, title) for name, title in found.costs.items()]
    return render("sweep.html", title="Sweep", answer=found, titles=titles, rows=rows, plots=plots)


def front_plot(found: Answer, cost: str, title: str) -> Plot:
    """The measure of each model, marked by its rank, with its interval over a cost; a line joins what nothing beats."""
    drawn = empty_figure(title, height=320)
    known = [model for model in found.models if model.values and not math.isnan(model.cost(cost))]
    front = pareto_front(known, cost, found.better)
    line = {"color": COLOURS[1], "width": 1.5, "dash": "dot"}
    drawn.add_scatter(**_points(front, cost), mode="lines", line=line, name="Pareto front")
    for model in known:
        interval, colour = model.interval, COLOURS[1 if model in front else 0]
        half = 0.0 if math.isnan(interval.high) else interval.high - interval.value
        look = {"marker": {"color": colour, "size": 9}, "error_y": {"type": "data", "array": [half]}}
        rank = {"text": str(found.models.index(model) + 1), "textposition": "middle right"}
        drawn.add_scatter(**_points([model], cost), mode="markers+text", name=model.label, **look, **rank)
    drawn.update_layout(yaxis_title=found.measure, hovermode="closest")
    return plot(drawn, f"{found.measure} against {title}")


def _points(models: Sequence[Model], cost: str) -> dict[str, list[float]]:
    return {"x": [model.cost(cost) for model in models], "y": [model.interval.value for model in models]}


def spread(interval: Interval) -> str:
    """A mean with its bounds."""
    if math.isnan(interval.low):
        return f"{interval.value:.4g}"
    return f"{interval.value:.4g} ({interval.low:.4g} to {interval.high:.4g})"


def short(value: float) -> str:
    """A cost in few digits."""
    if math.isnan(value):
        return "–"
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
