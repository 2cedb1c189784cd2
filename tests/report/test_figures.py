import json

import numpy as np
import pytest
import torch

from fluxflow.kernels.bezier import cubic_bezier
from fluxflow.report import evaluation, figures, sections
from fluxflow.report.run import Series
from tests.report import folders

HOSTILE = "</script><script>alert(1)</script><a href='http://x'>&"


def test_the_curve_that_is_drawn_is_the_one_that_is_computed() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    points = torch.randn(4, dtype=torch.float64)
    np.testing.assert_allclose(figures.bezier(t.numpy(), points.tolist()), cubic_bezier(t, *points).numpy(), atol=1e-12)


def test_a_curve_is_drawn_where_t_occurs_and_ends_in_its_last_step() -> None:
    records = [(step, folders.record(step)["curves"]["expander.rgb_activation"]) for step in range(0, 2000, 100)]
    figure = figures.curve(records)
    *earlier, last, marks = figure.data
    assert [trace.name for trace in (earlier[0], last)] == ["step 0", "step 1,900"]
    assert len(earlier) == figures.EARLIER
    assert all((min(trace.x), max(trace.x)) == (0.05, 0.9) for trace in (*earlier, last))
    assert last.line.width > earlier[-1].line.width
    np.testing.assert_allclose(marks.x, [0.3, 0.5, 0.7])


def test_a_long_series_keeps_its_extremes() -> None:
    values = np.sin(np.arange(100_000) / 500)
    values[54_321], values[12_345] = 9.0, -9.0
    few = figures.thinned(Series(np.arange(100_000), values))
    assert len(few.values) <= figures.POINTS
    assert few.steps[few.values.argmax()] == 54_321
    assert few.steps[few.values.argmin()] == 12_345
    assert np.all(np.diff(few.steps) > 0)
    np.testing.assert_array_equal(values[few.steps], few.values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 10.0, 100.0], True), ([1.0, 2.0, 3.0], False), ([0.0, 1.0, 1000.0], False), ([-1.0, 5.0], False)],
)
def test_a_logarithmic_axis_is_for_positive_values_over_decades(values: list[float], expected: bool) -> None:
    assert figures.wants_log(np.repeat(values, 20)) is expected
    axis = figures.metric({"run": folders.series(list(np.repeat(values, 20)))}, ["run"]).layout.yaxis.type
    assert axis == ("log" if expected else "linear")


def test_names_from_a_run_are_neither_markup_nor_script() -> None:
    figure = figures.metric({HOSTILE: folders.series([1.0, 2.0])}, ["other", HOSTILE])
    assert figure.data[0].name.startswith("&lt;/script&gt;")
    text = sections.plot(figures.lines({"x": [1], "series": {HOSTILE: [2]}, "x_title": HOSTILE}), HOSTILE).json
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text)["data"][0]["name"].startswith("&lt;/script&gt;")


def test_every_column_of_any_run_has_a_figure_in_its_group() -> None:
    runs = [folders.run(), folders.run({"val/psnr": [20.0], "odd": [1.0], "other/x": [2.0]})]
    groups = sections.metric_groups(runs, ["a", "b"])
    assert list(groups) == ["Loss", "Held out", "Training", "Speed and memory", "odd", "other"]
    titles = [plot.title for plots in groups.values() for plot in plots]
    assert sorted(titles) == sorted(runs[1].metrics)
    (trace,) = json.loads(groups["Held out"][0].json)["data"]
    assert (trace["name"], trace["line"]["color"]) == ("b", figures.COLOURS[1])


def test_a_long_series_is_drawn_with_its_running_median() -> None:
    noisy = folders.series([float(step % 2) for step in range(200)])
    raw, median = figures.metric({"a": noisy}, ["a"]).data
    assert set(raw.y) == {0.0, 1.0}
    assert len(set(np.diff(median.x))) == 1
    assert abs((median.x[0] + median.x[-1]) - (raw.x[0] + raw.x[-1])) <= 10, "in the middle"
    (alone,) = figures.metric({"a": noisy}, ["a", "b"]).data
    np.testing.assert_array_equal(alone.y, median.y)


def test_the_best_value_is_the_highest_or_the_lowest() -> None:
    values = folders.series([3.0, 1.0, 2.0])
    assert sections.best("val/loss", values) == (1.0, 20)
    assert sections.best("val/psnr", values) == (3.0, 10)
    assert sections.best("val/odd", values) is None


def test_channels_without_information_are_named_with_their_cost() -> None:
    plots, sentence = sections.latents(folders.run(curves=[folders.record(0), folders.record(400)]))
    assert len(plots) == 6
    assert sentence == (
        "At step 400, 7 of 8 channels carry information. Those without are 7, and cost 12% of the KL divergence."
    )
    assert sections.latents(folders.run(curves=[{"step": 1, "latents": {"kl": "x"}}, {"step": 2}])) == ([], "")


def test_activations_are_grouped_by_network() -> None:
    found = sections.activations(folders.run(curves=[folders.record(0), {"step": 5, "curves": {"x": {"t": "?"}}}]))
    assert {name: [plot.title for plot in plots] for name, plots in found.items()} == {
        "compressor": ["mu_activation", "latent_proj.0.1"],
        "expander": ["rgb_activation"],
    }


@pytest.mark.parametrize(
    "nonsense",
    [
        {"curves": 3}, {"measures": [3, {"value": "x"}, {}]}, {"curves": [{}, 3, {"x": [1], "series": 3}]},
        {"curves": [{"x": ["a"], "series": {}}]}, {"curves": [{"x": [1], "series": {"a": 3}}]}, {"measures": {"a": 1}},
    ],
)  # fmt: skip
def test_an_evaluation_of_another_kind_is_passed_over(nonsense: dict) -> None:
    assert evaluation.plots(nonsense) == []
    assert evaluation.measures(nonsense) == {}
