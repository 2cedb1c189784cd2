"""What of a run stands on its page: facts, key figures, and which figures in which order."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fluxflow.report import figures
from fluxflow.report.run import Run, Series

HIGHER = ("psnr", "ssim", "accuracy", "precision", "recall", "coverage")  # parts of the names of what ought to be high
LOWER = ("loss", "mse", "l1", "lpips", "kid", "fid", "error", "distance")
MEANINGS = {
    "loss": "all terms with their weights, one batch",
    "train/l1_mse": "reconstruction of the training batch",
    "train/loss": "velocity error of the training batch",
    "train/kl": "nats per latent element",
    "train/loss_discriminator": "hinge loss and, every r1_every steps, R1",
    "train/logits_real": "of the discriminator, for images",
    "train/logits_fake": "of the discriminator, for reconstructions",
    "train/grad_norm": "before clipping",
    "train/grad_norm_discriminator": "before clipping",
    "train/lr": "learning rate",
    "train/beta": "weight of the KL divergence",
    "train/gan_weight": "of the adversarial term",
    "train/active_channels": "latent channels that carry information",
    "train/posterior_std": "mean σ of the posterior",
    "val/loss": "held out, averaged weights",
    "val/psnr": "held out, dB",
    "val/ssim": "held out",
    "measure/velocity_loss": "few held-out images, averaged weights",
    "measure/velocity_loss_raw": "the same, trained weights",
    "measure/caption_gain": "what captions are worth",
    "speed/images_per_second": "validation, previews and saving left out",
    "speed/waiting_for_data": "share of the time",
    "speed/tflops": "10¹² operations a second and device",
    "speed/mfu": "share of what the device can do",
    "speed/peak_memory_gb": "10⁹ bytes",
}
LOSSES = ("loss", "train/loss", "train/l1_mse", "train/kl", "train/loss_discriminator")
GROUPS = {
    "losses": "Loss",
    "val": "Held out",
    "measure": "Measures",
    "train": "Training",
    "speed": "Speed and memory",
}
STATISTICS = {
    "kl": ("KL divergence", "nats per element; grey: without information"),
    "std": ("σ of the mean μ", "over images and places; near 0, a channel is constant"),
    "sigma": ("mean posterior σ", "1 with μ = 0: the prior"),
    "mean": ("mean of μ", ""),
}


@dataclass(frozen=True)
class Plot:
    """A figure on the page.

    Args:
        title, note: what stands above it.
        json: of Plotly, without characters that mean something in HTML.
        height: in pixels.
    """

    title: str
    note: str
    json: str
    height: int


@dataclass(frozen=True)
class KeyFigure:
    """A figure at the top of the page, with a second one below it."""

    title: str
    value: str
    note: str = ""


def plot(figure: go.Figure, title: str, note: str = "") -> Plot:
    """A figure as the page takes it; `</script>` in a name would end the element it stands in."""
    text = str(figure.to_json())
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Plot(title, note, text, figure.layout.height)


def short(value: float | None) -> str:
    """A number in four significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def millions(count: int) -> str:
    """A number of parameters."""
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def goal(name: str) -> int:
    """1 where a metric ought to be high, -1 where low, 0 where nobody knows."""
    last = name.rpartition("/")[2].lower()
    if any(part in last for part in HIGHER):
        return 1
    return -1 if any(part in last for part in LOWER) else 0


def best(name: str, series: Series) -> tuple[float, int] | None:
    """The best value of a metric and its step, where it is known what is better."""
    direction = goal(name)
    if not direction:
        return None
    place = int((direction * series.values).argmax())
    return float(series.values[place]), int(series.steps[place])


def held_out(run: Run) -> dict[str, Series]:
    """The held-out measures."""
    return {name: series for name, series in run.metrics.items() if name.startswith("val")}


def key_figures(run: Run) -> Iterator[KeyFigure]:
    """Held-out measures with their best, then speed, memory and time."""
    for name, series in held_out(run).items():
        found = best(name, series)
        note = f"best {short(found[0])} at step {found[1]:,}" if found else f"at step {series.steps[-1]:,}"
        yield KeyFigure(name, short(float(series.values[-1])), note)
    middle = {name: float(np.median(one.values[len(one.values) // 2 :])) for name, one in run.metrics.items()}
    if (rate := middle.get("speed/images_per_second")) is not None:
        waiting = middle.get("speed/waiting_for_data")
        yield KeyFigure("images/s", short(rate), f"{waiting:.0%} waiting for data" if waiting is not None else "")
    if (memory := run.metrics.get("speed/peak_memory_gb")) is not None:
        share = middle.get("speed/mfu")
        yield KeyFigure("peak memory", f"{memory.values.max():.2f} GB", f"MFU {share:.0%}" if share else "")
    if run.seconds:
        each = f"{run.seconds / run.step:.2g} s a step, all included" if run.step else ""
        yield KeyFigure("time", duration(run.seconds), each)


def facts(run: Run) -> Iterator[tuple[str, str]]:
    """What was run: name and value of each fact that is known."""
    start = run.start
    yield "command", str(start.get("command", ""))
    yield "stage", {"vae": "1, the VAE", "flow": "2, the flow"}.get(run.stage, "")
    steps = f"{run.step:,} of {run.steps:,}" if run.steps else f"{run.step:,}"
    yield "steps", f"{steps}: it became no better" if run.gave_up else steps
    yield "started", run.started.strftime("%Y-%m-%d %H:%M:%S %Z").strip() if run.started else ""
    starts = sum(event.get("event") == "start" for event in run.history)
    yield "time", duration(run.seconds) + (f", in {starts} parts" if starts > 1 else "") if run.seconds else ""
    yield "device", str(start.get("device", "")) + (f" × {start['devices']}" if start.get("devices", 1) != 1 else "")
    yield "precision", str(start.get("precision") or run.option("trainer.precision") or "")
    versions = {"fluxflow": "FluxFlow", "torch": "torch", "python": "Python"}
    yield "software", ", ".join(f"{name} {start[key]}" for key, name in versions.items() if key in start)
    yield "seed", str(run.option("seed", ""))
    sizes = run.option("model")
    yield "model", ", ".join(f"{key} {value}" for key, value in sizes.items()) if isinstance(sizes, Mapping) else ""
    yield "parameters", ", ".join(parameters(start.get("parameters")))
    yield "VAE", str(run.option("vae") or "")
    yield "data", data_of(run)
    yield "folder", str(run.folder)
    yield "saved", ", ".join(run.saved)


def parameters(counts: Any) -> Iterator[str]:
    """Parameters of each network, of one that is frozen in part the trained ones as well."""
    for name, pair in counts.items() if isinstance(counts, Mapping) else ():
        if not are_numbers(pair, 2):
            continue
        every, trained = pair
        what = "" if trained > 0.99 * every else f" ({millions(trained)} trained)" if trained else " (frozen)"
        yield f"{name} {millions(every)}{what}"


def data_of(run: Run) -> str:
    """The data in one line."""
    reader = str(run.option("data.reader._target_", "")).rpartition(".")[2]
    sources = run.option("data.sources")
    names = list(sources) if isinstance(sources, Mapping) else [run.option("data.train")]
    size, batch = run.option("data.image_size"), run.option("data.batch_size")
    pieces = [
        reader,
        ", ".join(str(name) for name in names if name),
        f"{size} px" if size else "",
        f"batches of {batch}" if batch else "",
        f"{run.option('accumulate')} a step" if run.number("accumulate", 1) > 1 else "",
    ]
    return ", ".join(piece for piece in pieces if piece)


def metric_groups(runs: Sequence[Run], labels: Sequence[str]) -> dict[str, list[Plot]]:
    """Title of a group → a figure for each column of metrics.csv that any of the runs has."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    keys = {name: "losses" if name in LOSSES else name.partition("/")[0] for name in names}
    order = [key for key in GROUPS if key in keys.values()] + [key for key in keys.values() if key not in GROUPS]
    return {
        GROUPS.get(key, key): [
            plot(
                figures.metric(
                    {label: run.metrics[name] for label, run in zip(labels, runs) if name in run.metrics}, labels
                ),
                name,
                MEANINGS.get(name, ""),
            )
            for name in names
            if keys[name] == key
        ]
        for key in dict.fromkeys(order)
    }


def activations(run: Run) -> dict[str, list[Plot]]:
    """Network → a figure for each of its Bézier activations, now and earlier."""
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for row in run.curves:
        curves = row.get("curves")
        for name, record in curves.items() if isinstance(curves, Mapping) else ():
            if are_numbers(record.get("t"), 4) and are_numbers(record.get("points"), 4):
                found.setdefault(name, []).append((row["step"], record))
    by_network = itertools.groupby(found.items(), key=lambda item: item[0].partition(".")[0])
    return {
        network: [
            plot(figures.curve(records), name.partition(".")[2], _spread(records[-1][1])) for name, records in group
        ]
        for network, group in by_network
    }


def _spread(record: Mapping[str, Any]) -> str:
    """How far the control points of single elements are spread around their mean."""
    spread = record.get("spread")
    return f"σ of points up to {max(spread):.2g}" if isinstance(spread, list) and are_numbers(spread, 4) else ""


def latents(run: Run) -> tuple[list[Plot], str]:
    """Figures of the latent channels, and a sentence about them; none where they were not recorded."""
    rows = [(row["step"], row["latents"]) for row in run.curves if isinstance(row.get("latents"), Mapping)]
    count = len(rows[-1][1].get("kl") or []) if rows else 0  # of channels
    keys = (*STATISTICS, "active")
    rows = [(step, found) for step, found in rows if all(are_numbers(found.get(key), count) for key in keys)]
    if not rows or not count:
        return [], ""
    step, now = rows[-1]
    plots = [plot(figures.channels(now[key], now["active"]), title, note) for key, (title, note) in STATISTICS.items()]
    if len(rows) > 1:
        shown = [rows[index] for index in figures.spread(len(rows), 100)]
        for key in ("kl", "std"):
            steps, values = [step for step, _ in shown], [found[key] for _, found in shown]
            plots.append(plot(figures.over_steps(steps, values), f"{STATISTICS[key][0]} over training"))
    dead = [number for number, alive in enumerate(now["active"]) if not alive]
    sentence = f"At step {step:,}, {count - len(dead)} of {count} channels carry information."
    if dead:
        share = sum(now["kl"][number] for number in dead) / max(sum(now["kl"]), 1e-9)
        sentence += f" Those without are {', '.join(map(str, dead))}, and cost {share:.0%} of the KL divergence."
    return plots, sentence


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Whether something is a list of finite numbers, of a given length."""
    is_list = isinstance(values, list) and len(values) == (len(values) if count is None else count)
    return is_list and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
