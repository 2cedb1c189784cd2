"""Matched arms: parameters and operations to 2 %, on the models that the recipes train."""

import pytest

from fluxflow.commands import match
from fluxflow.errors import ConfigError
from fluxflow.models.activations import CHOICES

STAGES = {"vae": ["stage=vae"], "flow": ["stage=flow", "vae=any"]}


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_and_operations_agree_to_two_percent(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match, "times", lambda arms: {key: key[1] for key in arms})
    overrides = [*STAGES[stage], "model=v1_tiny", "data=demo", "data.batch_size=1"]
    found, config = match.match(overrides), match._composed(overrides)
    for what, cost in {"parameters": match.parameters, "operations": match.operations}.items():
        for name, expansion in found[what].items():
            assert cost(match._arm(config, name, expansion)) == pytest.approx(cost(config), rel=0.02), (what, name)


def test_times_are_matched_by_a_line_through_two_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that charges 1 s and a second a unit of width, and twice as much a unit for curves."""
    clock = [0.0]

    def charge(config: object, networks: object) -> object:
        model = config.model
        return lambda: clock.__setitem__(0, clock[0] + 1 + model.expansion * (2 if model.activation == "bezier" else 1))

    monkeypatch.setattr(match.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(match, "_step", charge)
    monkeypatch.setattr(match, "_networks", lambda config, make: {})
    config = match._composed(["stage=vae", "model=v1_tiny", "data=demo"])
    arms = {(name, factor): match._arm(config, name, factor) for name in CHOICES for factor in match.COMPARED}
    found = match._expansions(match.times(arms | {match.WANTED: config}))
    assert found == pytest.approx({name: 1.0 if name == "bezier" else 2.0 for name in CHOICES})


def test_other_versions_have_no_arms() -> None:
    with pytest.raises(ConfigError, match=r"model\.version=0\.3\.0-text has no choice of activations"):
        match.match(["stage=vae", "model=tiny", "data=demo"])


def test_the_table_names_the_keys(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match, "match", lambda overrides: {"parameters": dict.fromkeys(CHOICES, 1.25)})
    match.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model.expansion", "at", "equal", "parameters"]
    assert lines[1].split() == ["model.activation=bezier", "1.250"]
