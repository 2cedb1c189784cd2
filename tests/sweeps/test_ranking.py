"""Verdicts over seeds: how often they are wrong, and what they say."""

import math

import pytest
import torch

from fluxflow.sweeps.ranking import Job, comparisons, models_of, pareto_front, ranked, warnings


def jobs(values: dict[str, list[float]], costs: dict[str, float] | None = None) -> list[Job]:
    """A model for each name, a seed for each value."""
    return [
        Job(f"{name}_{seed}", {"model.vae_dim": name}, seed, value, {"parameters": (costs or {}).get(name, 1.0)}, 900)
        for name, found in values.items()
        for seed, value in enumerate(found)
    ]


def test_models_are_ranked_by_their_means() -> None:
    models = models_of(jobs({"8": [20.0, 21.0], "16": [23.0, 22.0], "32": [19.0]}))
    assert [model.options["model.vae_dim"] for model in ranked(models, "higher")] == ["16", "8", "32"]
    assert [model.options["model.vae_dim"] for model in ranked(models, "lower")] == ["32", "8", "16"]
    assert models[0].interval.value == 20.5


def test_pairs_by_seed_find_what_means_do_not() -> None:
    """The seeds vary by 3 dB, the models by 0.5 dB in each of them."""
    models = models_of(jobs({"8": [17.0, 20.0, 23.0], "16": [17.5, 20.51, 23.49]}))
    best, other = ranked(models, "higher")
    assert best.interval.low < other.interval.value
    (found,) = comparisons([best, other], "higher")
    assert found.verdict.word == "better"
    assert found.sentence("val/psnr").startswith("model.vae_dim=16 against model.vae_dim=8: better; val/psnr +0.5 (")


def test_one_seed_is_inconclusive() -> None:
    (found,) = comparisons(ranked(models_of(jobs({"8": [17.0], "16": [30.0]})), "higher"), "higher")
    assert found.verdict.word == "inconclusive"
    assert "with 1 shared seed:" in found.sentence("val/psnr")


@pytest.mark.parametrize("count", [2, 4])
def test_equal_models_are_seldom_told_apart(count: int) -> None:
    """At most one sweep of twenty calls any of them better, also where the best of several was chosen first."""
    generator = torch.Generator().manual_seed(count)
    wrong = 0
    for _ in range(400):
        values = torch.randn(count, 3, generator=generator)
        models = ranked(models_of(jobs({str(i): row.tolist() for i, row in enumerate(values)})), "lower")
        wrong += any(found.verdict.word != "inconclusive" for found in comparisons(models, "lower"))
    assert wrong / 400 < 0.07


def test_the_front_has_what_nothing_beats() -> None:
    values = {"a": [1.0], "b": [2.0], "c": [1.5], "d": [3.0]}
    models = models_of(jobs(values, {"a": 10, "b": 20, "c": 30, "d": 40}))
    assert [model.options["model.vae_dim"] for model in pareto_front(models, "parameters", "higher")] == ["a", "b", "d"]
    assert [model.options["model.vae_dim"] for model in pareto_front(models, "parameters", "lower")] == ["a"]


def test_what_is_unfair_is_named() -> None:
    found = [*jobs({"8": [1.0, 2.0], "16": [1.0]}), Job("32_0", {"model.vae_dim": "32"}, 0, None, problem="it failed")]
    found.append(Job("8_2", {"model.vae_dim": "8"}, 2, 1.0, budget=1800))
    sentences = " ".join(warnings(models_of(found)))
    assert "different numbers of seeds, from 0 to 3" in sentences
    assert "from 900 to 1,800" in sentences
    assert "32_0 has no value: it failed" in sentences
    assert warnings(models_of(jobs({"8": [1.0, 2.0], "16": [1.0, 2.0]}))) == []
    assert math.isnan(models_of(found)[2].interval.value) or not models_of(found)[2].values


def test_an_unequal_search_is_named() -> None:
    tried = [("silu", "0.0017826497"), ("silu", "0.01"), ("silu", "0.1"), ("bezier", "0.01")]
    found = [Job("run", {"model.activation": name, "stage.optimizer.lr": lr}, 0, 1.0) for name, lr in tried]
    sentences = warnings(models_of(found))
    assert "model.activation=silu was tried with 3 settings of the other options, bezier with 1" in sentences[0]
    assert models_of(found)[0].label == "model.activation=silu stage.optimizer.lr=0.001783"
    assert warnings(models_of([found[0], found[3]])) == []
