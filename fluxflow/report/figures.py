"""The figures of a report, drawn by Plotly. Text from a run is escaped: Plotly reads tags in its labels."""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from fluxflow.report.findings import running_median
from fluxflow.report.pictures import spread
from fluxflow.report.run import Series

POINTS = 1000  # of a line: of each stretch of a longer one, the lowest and the highest value are drawn
SMOOTHED = 60  # values, from which on their running median is drawn, too
EARLIER = 8  # lines of earlier steps
COLOURS = ("#3b78d8", "#d9662b", "#2f9e6b", "#a35bc4", "#c98a00", "#d1477e", "#1f9bb0", "#7a7f33", "#8a6d5a", "#6b7280")
SPACE = dict.fromkeys(("paper_bgcolor", "plot_bgcolor"), "rgba(0,0,0,0)")


def metric(series: Mapping[str, Series], runs: Sequence[str]) -> go.Figure:
    """A column of metrics.csv over the steps.

    Args:
        series: name of a run → its values. A long one is drawn as its running median, and for one run alone also as it
            is, in pale.
        runs: all names, by whose order a run has its colour.
    """
    figure = empty_figure(x_title="step")
    alone = len(runs) == 1
    for name, one in series.items():
        colour, noisy = COLOURS[runs.index(name) % len(COLOURS)], len(one.values) >= SMOOTHED
        label = "running median" if alone and noisy else html.escape(name)
        if noisy and alone:
            pale = {"color": colour, "width": 1}
            figure.add_scatter(**_points(one), mode="lines", name=html.escape(name), line=pale, opacity=0.35)
        shape = {"mode": "lines+markers" if len(one.values) < 20 else "lines", "line": {"color": colour, "width": 1.8}}
        figure.add_scatter(**_points(smoothed(one) if noisy else one), name=label, **shape)
    values = np.concatenate([one.values for one in series.values()])
    figure.update_layout(yaxis_type="log" if wants_log(values) else "linear", hovermode="x unified")
    return figure if alone else legend_below(figure)


def smoothed(series: Series) -> Series:
    """The running median of a series, each value at the middle of its window."""
    values = running_median(series.values)
    start = (len(series.values) - len(values)) // 2
    return Series(series.steps[start : start + len(values)], values)


def wants_log(values: NDArray[np.float64]) -> bool:
    """Whether values are positive and spread over more than one and a half decades."""
    if values.min() <= 0:
        return False
    low, high = np.quantile(values, [0.01, 0.99])
    return bool(high > 30 * low)


def bezier(t: NDArray[np.float64], points: Sequence[float]) -> NDArray[np.float64]:
    """Σ C(3, k)·(1 − t)^(3−k)·t^k·p_k."""
    s = 1 - t
    p0, p1, p2, p3 = points
    return s**3 * p0 + 3 * s**2 * t * p1 + 3 * s * t**2 * p2 + t**3 * p3


def curve(records: Sequence[tuple[int, Mapping[str, Any]]]) -> go.Figure:
    """A Bézier activation over training: y(t) from the least to the largest t that occurs, the last step in bold.

    Args:
        records: (step, what curves.jsonl says of the activation), by step.
    """
    figure = empty_figure(x_title="t", height=200)
    shown = [records[index] for index in spread(len(records), EARLIER + 1)]
    for place, (step, record) in enumerate(shown):
        mean, deviation, low, high = record["t"]
        t = np.linspace(low, high, 41)
        now = place == len(shown) - 1
        line = {"color": COLOURS[1] if now else COLOURS[0], "width": 3 if now else 1}
        age = 1 if now else 0.25 + 0.5 * place / len(shown)
        figure.add_scatter(
            x=t, y=bezier(t, record["points"]), mode="lines", name=f"step {step:,}", line=line, opacity=age
        )
        if now:
            ends = np.clip([mean - deviation, mean, mean + deviation], low, high)
            y, marks = bezier(ends, record["points"]), {"color": COLOURS[1], "size": [6, 9, 6]}
            figure.add_scatter(x=ends, y=y, mode="markers", name="mean t ± σ", marker=marks)
    return figure.update_layout(hovermode="x unified")


def channels(values: Sequence[float], active: Sequence[float]) -> go.Figure:
    """A statistic of each latent channel as bars, those of channels without information grey."""
    colours = [COLOURS[0] if alive else "#9aa0a6" for alive in active]
    figure = empty_figure(x_title="channel")
    return figure.add_bar(x=list(range(len(values))), y=list(values), marker={"color": colours, "line": {"width": 0}})


def over_steps(steps: Sequence[int], values: Sequence[Sequence[float]]) -> go.Figure:
    """A statistic of each latent channel over training, as a map.

    Args:
        steps: [S].
        values: [S, D].
    """
    figure = empty_figure(x_title="step")
    figure.update_layout(yaxis_title="channel", hovermode="closest")
    bar = {"thickness": 10, "outlinewidth": 0}
    table = np.array(values).T
    return figure.add_heatmap(x=[f"{step:,}" for step in steps], z=table, colorscale="Viridis", colorbar=bar)


def lines(curve: Mapping[str, Any]) -> go.Figure:
    """A curve of evaluation.json: x, and series by name."""
    figure = empty_figure(html.escape(str(curve.get("x_title", ""))))
    figure.update_layout(yaxis_title=html.escape(str(curve.get("y_title", ""))))
    for index, (name, values) in enumerate(curve["series"].items()):
        mode = "lines+markers" if len(values) < 40 else "lines"
        colour = {"color": COLOURS[index % len(COLOURS)]}
        figure.add_scatter(x=list(curve["x"]), y=list(values), name=html.escape(str(name)), mode=mode, line=colour)
    return legend_below(figure) if len(curve["series"]) > 1 else figure


def thinned(series: Series, most: int = POINTS) -> Series:
    """A series of at most so many points: of each of equal stretches the lowest and the highest value."""
    count = len(series.values)
    if count <= most:
        return series
    edges = np.linspace(0, count, most // 2 + 1).astype(int)
    stretches = [(start, series.values[start:end]) for start, end in itertools.pairwise(edges)]
    kept = {int(start + pick(values)) for start, values in stretches for pick in (np.argmin, np.argmax)}
    index = np.array(sorted(kept))
    return Series(series.steps[index], series.values[index])


def legend_below(figure: go.Figure) -> go.Figure:
    """The same figure with a legend that leaves the width to the curves."""
    legend = {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0}
    return figure.update_layout(showlegend=True, legend=legend)


def _points(series: Series) -> dict[str, Any]:
    few = thinned(series)
    return {"x": few.steps, "y": few.values.astype(np.float32)}


def empty_figure(x_title: str, height: int = 250) -> go.Figure:
    """A figure in the look of the page, without curves."""
    margin = {"l": 52, "r": 10, "t": 26, "b": 40}
    axis = {"gridcolor": "rgba(128,128,128,0.2)", "zerolinecolor": "rgba(128,128,128,0.4)", "automargin": True}
    axis |= {"nticks": 6, "exponentformat": "e", "minexponent": 4}
    bar = {"bgcolor": "rgba(0,0,0,0)", "color": "#9aa0a6", "activecolor": COLOURS[0]}
    layout = {"template": "none", "margin": margin, "height": height, "showlegend": False, "modebar": bar}
    figure = go.Figure(layout=layout | {"font": {"size": 12}} | SPACE)
    figure.update_xaxes(title={"text": x_title, "standoff": 6}, rangemode="tozero", **axis)
    return figure.update_yaxes(**axis)
