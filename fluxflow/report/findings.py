"""What went wrong in a run, in plain words, and which key to turn. Each check is a pure function of what was read."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluxflow.report.run import Run, Series

ENOUGH = 20  # logged values, before they are judged
CUT = re.compile(r"(\d+) captions? (?:was|were) longer than (\d+) tokens")
BAD = re.compile(r"(\d+) of (\d+) samples that were read cannot be used")
LEFT_OUT = re.compile(r"step \d+ of the \w+ is left out")


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong, or that could go better.

    Args:
        title: what it is, in a few words.
        seen: the figures that tell of it.
        turn: what to do, with the key of the config.
        rule: when this is said.
        serious: whether the result is in doubt.
    """

    title: str
    seen: str
    turn: str
    rule: str
    serious: bool = True


def unfinished(run: Run) -> Finding | None:
    """A run that ended before its last step."""
    words = {
        "stopped": "It was stopped",
        "failed": f"It ended with an error: {run.error}" if run.error else "It ended with an error",
        "killed": "Its process ended without a word, as by SIGKILL, a crash or a power cut",
        "unknown": "Nothing says how it ended",
    }
    if run.state not in words:
        return None
    seen = f"{words[run.state].rstrip('.')}. {run.step:,} of {run.steps:,} steps are there."
    turn = "It has no checkpoint: start it again, with a smaller save_every where it may be stopped early."
    if checkpoints := [name for name in run.saved if name.startswith("checkpoints")]:
        turn = f"Repeat its command with resume={run.folder}: it goes on from {checkpoints[0]}."
    return Finding("The run is not finished", seen, turn, "Said of every run that works no longer and lacks steps.")


def left_out(run: Run) -> Finding | None:
    """Steps whose gradient was infinite or NaN."""
    count = sum(bool(LEFT_OUT.match(line.text)) for line in run.log)
    half = str(run.option("trainer.precision", "")).startswith("16")
    if count <= (20 if half else 0):
        return None
    seen = f"{count:,} steps had a loss or a gradient that was infinite or NaN."
    turn = f"Lower stage.optimizer.lr (now {_option(run, 'stage.optimizer.lr')}), or take precision=fp32."
    rule = "Said from the first such step on; under precision=fp16, whose loss scale begins too high, after 20."
    return Finding("Steps were left out", seen, turn, rule)


def diverged(run: Run) -> Finding | None:
    """A loss that fell and rose again."""
    series = objective(run)
    if series is None:
        return None
    lowest, last = float(running_median(series.values).min()), _end(series, 0.1)
    if not last > 1.5 * lowest > 0:
        return None
    seen = f"The training loss was down to {lowest:.3g} and is {last:.3g} at the end."
    turn = (
        f"Lower stage.optimizer.lr (now {_option(run, 'stage.optimizer.lr')}), or lengthen stage.learning_rate.warmup "
        f"(now {_option(run, 'stage.learning_rate.warmup')} steps)."
    )
    rule = "Said where the median of the last tenth is 1.5 times the lowest running median."
    return Finding("The loss has diverged", seen, turn, rule)


def not_falling(run: Run) -> Finding | None:
    """A loss that never fell."""
    series = objective(run)
    if series is None or diverged(run):
        return None
    first = float(np.median(series.values[: max(3, len(series.values) // 10)]))
    last = _end(series, 0.25)
    if not last > 0.98 * first:
        return None
    seen = f"The training loss was {first:.3g} at the start and is {last:.3g} at the end."
    turn = (
        f"Raise stage.optimizer.lr (now {_option(run, 'stage.optimizer.lr')}), and look at the previews: are these the "
        "images and captions of data.train?"
    )
    rule = "Said where the median of the last quarter is not at least 2 % below that of the first tenth."
    return Finding("The loss does not fall", seen, turn, rule)


def spikes(run: Run) -> Finding | None:
    """Gradients that are now and then far larger than usual."""
    series = run.metrics.get("train/grad_norm")
    if series is None:
        return None
    values = series.values[series.steps > run.number("stage.learning_rate.warmup", 0)]
    if len(values) < ENOUGH:
        return None
    usual = float(np.median(values))
    share = float(np.mean(values > 10 * usual))
    if share <= 0.02:
        return None
    seen = f"The gradient norm is {usual:.3g} as a rule, and above {10 * usual:.3g} in {share:.1%} of the steps."
    turn = f"Lower stage.optimizer.lr (now {_option(run, 'stage.optimizer.lr')}); it is probably too high."
    rule = "Said where, after the warm-up, more than 2 % of the logged norms exceed ten times their median."
    return Finding("Gradients spike", seen, turn, rule)


def collapsed(run: Run) -> Finding | None:
    """A posterior that says nothing of the image."""
    active, kl = run.metrics.get("train/active_channels"), run.metrics.get("train/kl")
    channels = run.number("stage.compressor.d_model", 0)
    if run.stage != "vae" or active is None or kl is None or not channels:
        return None
    alive, nats = _end(active, 0.25), _end(kl, 0.25)
    if alive > 0.1 * channels and nats >= 0.01:
        return None
    seen = f"{alive:.0f} of {channels:.0f} latent channels carry information, with {nats:.2g} nats an element."
    turn = (
        f"Lower stage.beta (now {_option(run, 'stage.beta')}), lengthen stage.beta_warmup (now "
        f"{_option(run, 'stage.beta_warmup')} steps), or give stage.free_bits some hundredths."
    )
    rule = "Said where, over the last quarter, a tenth of the channels or less is active, or the KL is below 0.01 nats."
    return Finding("The posterior has collapsed", seen, turn, rule)


def discriminator_won(run: Run) -> Finding | None:
    """A discriminator from which the VAE learns nothing more."""
    names = ("train/loss_discriminator", "train/logits_real", "train/logits_fake")
    if not all(name in run.metrics and len(run.metrics[name].values) >= ENOUGH for name in names):
        return None
    loss, real, fake = (_end(run.metrics[name], 0.25) for name in names)
    if loss >= 0.05 or real - fake <= 4:
        return None
    seen = f"Its loss is {loss:.2g}; its logits are {real:.2g} for images and {fake:.2g} for reconstructions."
    turn = (
        f"Raise stage.gan_start (now {_option(run, 'stage.gan_start')}), so that the VAE is better when it begins, or "
        f"stage.r1_gamma (now {_option(run, 'stage.r1_gamma')}); lower stage.discriminator_optimizer.lr (now "
        f"{_option(run, 'stage.discriminator_optimizer.lr')}) or stage.gan_weight (now "
        f"{_option(run, 'stage.gan_weight')})."
    )
    rule = "Said where, over the last quarter, its hinge loss is below 0.05 and the logits are more than 4 apart."
    return Finding("The discriminator has won", seen, turn, rule)


def overfitted(run: Run) -> Finding | None:
    """A held-out loss that rises while that of training falls."""
    held_out, training = run.metrics.get("val/loss"), objective(run)
    if held_out is None or training is None or len(held_out.values) < 4:
        return None
    best = int(held_out.values.argmin())
    step, lowest, last = int(held_out.steps[best]), float(held_out.values[best]), float(held_out.values[-2:].mean())
    earlier = training.values[training.steps <= step]
    then = float(np.median(earlier[-max(5, len(earlier) // 10) :])) if len(earlier) else 0.0
    now = _end(training, 0.1)
    if step > 0.75 * held_out.steps[-1] or last <= 1.03 * lowest or now >= then:
        return None
    seen = (
        f"The held-out loss was lowest at step {step:,} ({lowest:.3g}) and is {last:.3g} at the end, while that of "
        f"training fell from {then:.3g} to {now:.3g}."
    )
    turn = (
        "Take checkpoints/best.ckpt, or train on more data; stage.optimizer.weight_decay (now "
        f"{_option(run, 'stage.optimizer.weight_decay')}) and data.transform.flip (now "
        f"{_option(run, 'data.transform.flip')}) help a little."
    )
    rule = "Said where val/loss ends 3 % above its lowest, before the last quarter, and the training loss fell since."
    return Finding("The model overfits", seen, turn, rule)


def averages_apart(run: Run) -> Finding | None:
    """Trained and averaged weights that do not do the same."""
    raw, averaged = (run.metrics.get(f"measure/velocity_loss{which}") for which in ("_raw", ""))
    if raw is None or averaged is None:
        return None
    trained, mean = float(raw.values[-1]), float(averaged.values[-1])
    if max(trained, mean) <= 1.1 * min(trained, mean):
        return None
    seen = f"The held-out loss is {trained:.3g} with the trained weights and {mean:.3g} with their average."
    if trained > mean:
        turn = f"Lower stage.learning_rate.minimum (now {_option(run, 'stage.learning_rate.minimum')}), the last rate."
    else:
        turn = f"Lower callbacks.ema.decay (now {_option(run, 'callbacks.ema.decay')}): the average looks too far back."
    rule = "Said where the two losses that callbacks.measures took last differ by more than a tenth."
    return Finding("Trained and averaged weights are far apart", seen, turn, rule, serious=False)


def cut_captions(run: Run) -> Finding | None:
    """Captions longer than what the text encoder reads."""
    found = [match for line in run.log if (match := CUT.search(line.text))]
    if not found:
        return None
    count, window = max(int(match[1]) for match in found), int(found[-1][2])
    seen = f"{count:,} different captions are longer than the {window} tokens that the text encoder reads."
    turn = (
        "Put what matters first, choose shorter captions by data.transform.caption_rule (now "
        f"{_option(run, 'data.transform.caption_rule')}), or take a text= with a longer window."
    )
    return Finding("Captions are cut", seen, turn, "Said from the first such caption on.", serious=False)


def bad_samples(run: Run) -> Finding | None:
    """Samples that were rejected."""
    limit = run.number("data.max_bad_fraction", 0.01)
    told = [match for line in run.log if (match := BAD.search(line.text))]
    bad, seen = (int(told[-1][1]), int(told[-1][2])) if told else (rejected_count(run), samples_seen(run))
    if not seen or bad <= 0.2 * limit * seen:
        return None
    reason = f", most for one reason: {next(iter(run.rejected))}" if run.rejected else ""
    text = f"{bad:,} of {seen:,} samples that were read were rejected{reason}."
    turn = (
        "Look into rejected.jsonl, and make clean shards by python -m fluxflow.data.prepare; above "
        f"data.max_bad_fraction={limit:g} a run stops."
    )
    rule = "Said above a fifth of data.max_bad_fraction."
    return Finding("Samples are bad", text, turn, rule, serious=False)


def waits(run: Run) -> Finding | None:
    """Training that waits for its data."""
    series = run.metrics.get("speed/waiting_for_data")
    if series is None or len(series.values) < 5:
        return None
    share = _end(series, 0.5)
    if share <= 0.15:
        return None
    workers = run.option("data.num_workers")
    seen = f"{share:.0%} of the time goes into waiting for batches."
    turn = (
        f"Raise data.num_workers (now {'one a core' if workers is None else workers}) up to the number of cores; "
        "beyond that, take smaller images (python -m fluxflow.data.prepare --size) or data=latents."
    )
    rule = "Said where the median over the second half is above 15 %."
    return Finding("Training waits for data", seen, turn, rule, serious=False)


CHECKS: tuple[Callable[[Run], Finding | None], ...] = (
    unfinished, left_out, diverged, not_falling, spikes, collapsed, discriminator_won, overfitted, averages_apart,
    cut_captions, bad_samples, waits,
)  # fmt: skip


def find(run: Run) -> list[Finding]:
    """All that the checks find, what is serious first."""
    found = [finding for check in CHECKS if (finding := check(run))]
    return sorted(found, key=lambda finding: not finding.serious)


def objective(run: Run) -> Series | None:
    """The training loss that ought to fall: in stage 1 without the terms whose weights change."""
    names = ("train/l1_mse", "train/loss", "loss")
    series = next((run.metrics[name] for name in names if name in run.metrics), None)
    return series if series is not None and len(series.values) >= ENOUGH else None


def running_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians of windows of a twentieth of the values, five at least."""
    width = min(len(values), max(5, len(values) // 20))
    return np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)


def rejected_count(run: Run) -> int:
    """How many samples were rejected."""
    return sum(rejections.samples for rejections in run.rejected.values())


def samples_seen(run: Run) -> int:
    """How many samples the steps took."""
    each = run.number("data.batch_size", 0) * run.number("accumulate", 1) * (run.start.get("devices") or 1)
    return int(run.step * each)


def _end(series: Series, share: float) -> float:
    """The median of the last part of a series, five values at least."""
    return float(np.median(series.values[-max(5, int(share * len(series.values))) :]))


def _option(run: Run, key: str) -> str:
    value = run.option(key, "not known")
    return f"{value:g}" if isinstance(value, float) else str(value)
