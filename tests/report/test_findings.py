"""Each check fires on a run that has its trouble and is silent on a healthy one."""

import math
import re
from typing import Any

import numpy as np
import pytest

from fluxflow.report import findings
from fluxflow.report.run import Rejections
from tests.report import folders
from tests.test_configs import composed

WON = {
    "train/loss_discriminator": [0.5] * 25 + [0.01] * 15,
    "train/logits_real": [0.5] * 25 + [4.0] * 15,
    "train/logits_fake": [-0.5] * 25 + [-5.0] * 15,
}
SAVED = ("checkpoints/last.ckpt", "model")
FALLING = [1 / (1 + step) for step in range(40)]


def averages(mean: float, trained: float) -> dict[str, list[float]]:
    return {"measure/velocity_loss": [mean], "measure/velocity_loss_raw": [trained]}


TROUBLE: list[tuple[Any, dict[str, Any], str]] = [
    (findings.unfinished, {"history": [folders.START]}, "without a word"),
    (findings.unfinished, {"history": [folders.START, folders.END | {"step": 90}]}, "It was stopped"),
    (findings.unfinished, {"history": [folders.START, folders.END | {"error": "no room"}]}, "error: no room"),
    (findings.left_out, {"log": ["step 7 of the generator is left out: loss nan, gradient norm nan"]}, "1 steps"),
    (
        findings.left_out,
        {"log": ["step 7 of the flow is left out: loss 1, gradient norm inf"] * 21,
         "config": {"trainer.precision": "16-mixed"}},
        "21 steps",
    ),
    (findings.diverged, {"metrics": {"train/l1_mse": [1 - step / 40 for step in range(30)] + [0.9] * 10}}, "0.9 at"),
    (findings.not_falling, {"metrics": {"train/l1_mse": [1.0] * 40}}, "was 1 at the start and is 1"),
    (findings.spikes, {"metrics": {"train/grad_norm": [1.0, 1.0, 1.0, 1.0, 30.0] * 8}}, "in 21.1% of the steps"),
    (findings.collapsed, {"metrics": {"train/active_channels": [6.0] * 20 + [0.0] * 20}}, "0 of 8 latent channels"),
    (findings.collapsed, {"metrics": {"train/kl": [1.0] * 20 + [1e-4] * 20}}, "0.0001 nats"),
    (findings.discriminator_won, {"metrics": WON}, "4 for images and -5 for reconstructions"),
    (
        findings.overfitted,
        {"metrics": {"val/loss": [1.0, 0.5, 0.6, 0.8], "train/l1_mse": FALLING}},
        "lowest at step 20 (0.5)",
    ),
    (findings.averages_apart, {"metrics": averages(0.5, 0.8)}, "0.8 with the trained"),
    (findings.averages_apart, {"metrics": averages(0.8, 0.5)}, "0.8 with their average"),
    (findings.cut_captions, {"log": ["3 captions were longer than 256 tokens, of which"]}, "3 d"),
    (findings.cut_captions, {"log": ["1 caption was longer than 256 tokens, of which"]}, "256"),
    (findings.bad_samples, {"log": ["9 of 1200 samples that were read cannot be used: 9 no caption"]}, "9 of 1,200"),
    (findings.bad_samples, {"rejected": {"no caption": Rejections(40, "7 of a.tar")}}, "40 of 1,600 samples"),
    (findings.waits, {"metrics": {"speed/waiting_for_data": [0.4] * 40}}, "40% of the time"),
]  # fmt: skip
# On the right side of each threshold, if barely.
HEALTHY: list[tuple[Any, dict[str, Any]]] = [
    (findings.unfinished, {}),
    (findings.unfinished, {"history": [folders.START], "held": True}),
    (
        findings.unfinished,
        {"history": [folders.START, folders.END | {"step": 90}],
         "log": ["val/loss has not become better in 3 validations: the run stops", "90 steps in 5s"]},
    ),
    (
        findings.left_out,
        {"log": ["step 7 of the flow is left out: loss 1, gradient norm inf"] * 20,
         "config": {"trainer.precision": "16-mixed"}},
    ),
    (findings.diverged, {"metrics": {"train/l1_mse": [1.0] * 30 + [1.4] * 10}}),
    (findings.not_falling, {"metrics": {"train/l1_mse": [1.0] * 30 + [0.9] * 10}}),
    (findings.not_falling, {"metrics": {"train/l1_mse": [1.0] * 19}}),
    (findings.spikes, {"metrics": {"train/grad_norm": [1.0, 1.0, 1.0, 1.0, 9.0] * 8}}),
    (findings.spikes, {"metrics": {"train/grad_norm": [30.0, 30.0] + [1.0] * 38}}),
    (findings.collapsed, {"metrics": {"train/active_channels": [0.0] * 20 + [1.0] * 20}}),
    (findings.discriminator_won, {"metrics": WON | {"train/loss_discriminator": [0.06] * 40}}),
    (findings.discriminator_won, {"metrics": WON | {"train/logits_fake": [0.1] * 40}}),
    (findings.overfitted, {"metrics": {"val/loss": [1.0, 0.5, 0.51, 0.51], "train/l1_mse": FALLING}}),
    (findings.overfitted, {"metrics": {"val/loss": [1.0, 0.5, 0.6, 0.8], "train/l1_mse": FALLING[::-1]}}),
    (findings.averages_apart, {"metrics": averages(0.5, 0.54)}),
    (findings.cut_captions, {"log": ["5 steps in 3s"]}),
    (findings.bad_samples, {"log": ["2 of 1200 samples that were read cannot be used: 2 no caption"]}),
    (findings.bad_samples, {"rejected": {"no caption": Rejections(3, "7 of a.tar")}}),
    (findings.waits, {"metrics": {"speed/waiting_for_data": [0.9] * 15 + [0.1] * 25}}),
]  # fmt: skip


@pytest.mark.parametrize(("check", "options", "seen"), TROUBLE)
def test_a_check_fires(check: Any, options: dict[str, Any], seen: str) -> None:
    finding = check(folders.run(**options))
    assert finding is not None
    assert seen in finding.seen
    assert finding.rule.startswith("Said")
    assert finding.title in [one.title for one in findings.find(folders.run(**options))]


@pytest.mark.parametrize(("check", "options"), HEALTHY)
def test_a_check_is_silent(check: Any, options: dict[str, Any]) -> None:
    assert check(folders.run(**options)) is None


def test_only_a_run_with_a_checkpoint_can_go_on() -> None:
    killed = {"history": [folders.START]}
    with_one, without = (findings.unfinished(folders.run(saved=saved, **killed)) for saved in (SAVED, ("model",)))
    assert with_one is not None
    assert without is not None
    assert with_one.turn.endswith("resume=outputs/vae/mine: it goes on from checkpoints/last.ckpt.")
    assert without.turn.startswith("It has no checkpoint")


def test_each_check_is_tried_in_both_directions() -> None:
    for tried in ([check for check, *_ in TROUBLE], [check for check, *_ in HEALTHY]):
        assert set(findings.CHECKS) <= set(tried)


def test_a_healthy_run_has_no_finding_and_an_empty_folder_neither_but_its_end() -> None:
    assert findings.find(folders.run()) == []
    empty = folders.Run(folder=folders.Path("outputs/vae/mine"))
    assert [finding.title for finding in findings.find(empty)] == ["The run is not finished"]


def test_what_is_serious_comes_first_and_names_the_value_of_its_key() -> None:
    trouble = folders.run({"speed/waiting_for_data": [0.5] * 40, "train/active_channels": [0.0] * 40})
    first, second = findings.find(trouble)
    assert (first.serious, second.serious) == (True, False)
    assert "stage.beta (now 0.001)" in first.turn
    assert "data.num_workers (now 1)" in second.turn


@pytest.mark.parametrize("values", [[0.0] * 40, [-1.0 - step for step in range(40)], [math.pi] * 40])
def test_losses_that_are_zero_or_negative_break_no_check(values: list[float]) -> None:
    findings.find(folders.run({"train/l1_mse": values, "val/loss": values[:8], "train/grad_norm": values}))


def test_every_key_that_a_finding_names_is_one_of_the_configs() -> None:
    vae = composed("stage=vae")
    for check, options, _ in TROUBLE:
        finding = check(folders.run(**options))
        assert finding is not None
        for key in re.findall(r"(?<![.\w])((?:stage|data|callbacks)\.[a-z_.]+\b)", finding.turn):
            *above, last = key.split(".")
            node = vae
            for part in above:
                node = node[part]
            assert last in node, key


def test_running_medians_are_those_of_windows() -> None:
    values = np.random.default_rng(0).normal(size=200)
    expected = [np.median(values[start : start + 10]) for start in range(191)]
    np.testing.assert_allclose(findings.running_median(values), expected)
    assert len(findings.running_median(values[:3])) == 1
