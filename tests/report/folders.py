"""Run folders as training leaves them, and runs as they are read, without any training."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from fluxflow.report.run import Line, Run, Series

NOON = datetime(2026, 5, 4, 12, 0, 0)
CONFIG: dict[str, Any] = {
    "seed": 3,
    "steps": 400,
    "accumulate": 1,
    "vae": None,
    "name": "mine",
    "run_dir": "outputs/vae/mine",
    "model": {"vae_dim": 8, "downscales": 3},
    "stage": {
        "_target_": "fluxflow.training.VAELitModule",
        "compressor": {"d_model": 8},
        "optimizer": {"lr": 0.005, "weight_decay": 0.01},
        "discriminator_optimizer": {"lr": 1e-4},
        "learning_rate": {"warmup": 20, "minimum": 0.1},
        "beta": 1e-3,
        "beta_warmup": 100,
        "gan_weight": 0.1,
        "gan_start": 100,
        "r1_gamma": 1.0,
    },
    "data": {"train": "shards/train", "batch_size": 4, "image_size": 64, "num_workers": 1, "max_bad_fraction": 0.01},
    "trainer": {"precision": "32-true"},
    "callbacks": {"ema": {"decay": 0.999}, "previews": {"folder": "outputs/vae/mine/previews"}},
}
METRICS = {
    "loss": [2.0 * math.exp(-step / 20) + 0.5 + 0.05 * math.sin(step) for step in range(40)],
    "train/l1_mse": [2.0 * math.exp(-step / 20) + 0.4 for step in range(40)],
    "train/kl": [1.5] * 40,
    "train/active_channels": [6.0] * 40,
    "train/grad_norm": [1.0 + 0.3 * math.cos(step) for step in range(40)],
    "speed/images_per_second": [20.0] * 40,
    "speed/waiting_for_data": [0.02] * 40,
    "speed/peak_memory_gb": [1.5] * 40,
}
START = {
    "event": "start", "time": "2026-05-04T12:00:00+00:00", "step": 0, "command": "python train.py stage=vae name=mine",
    "fluxflow": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "device": "a CPU, 2 threads", "devices": 1,
    "precision": "32-true", "parameters": {"compressor": [1_200_000, 1_200_000], "discriminator": [30_000, 30_000]},
}  # fmt: skip
END = {"event": "end", "time": "2026-05-04T12:05:00+00:00", "step": 400, "steps": 400}


def series(values: Sequence[float], every: int = 10) -> Series:
    """Values at steps every, 2·every, …"""
    return Series(np.arange(1, len(values) + 1) * every, np.array(values, dtype=float))


def run(
    metrics: Mapping[str, Sequence[float]] | None = None,
    log: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """A healthy run of 400 steps with other columns, lines of the log and keys of the config (dotted) as given."""
    columns = {name: series(values) for name, values in (METRICS | dict(metrics or {})).items()}
    changed: dict[str, Any] = json.loads(json.dumps(CONFIG))
    for key, value in (config or {}).items():
        *above, last = key.split(".")
        node = changed
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    lines = [Line(NOON, "INFO", text) for text in log]
    read = {"config": changed, "metrics": columns, "log": lines, "history": [START, END]}
    return Run(**{"folder": Path("outputs/vae/mine")} | read | options)


def record(step: int, channels: int = 8) -> dict[str, Any]:
    """A line of curves.jsonl."""
    curve = {"t": [0.5, 0.2, 0.05, 0.9], "points": [0.0, 3.0 + step / 400, 2.6, 6.4], "spread": [0.1] * 4}
    latents = {"mean": [0.0] * channels, "std": [1.0] * channels, "sigma": [0.2] * channels, "kl": [1.0] * channels}
    names = ["compressor.mu_activation", "compressor.latent_proj.0.1", "expander.rgb_activation"]
    active = [1.0] * (channels - 1) + [0.0]
    return {"step": step, "curves": dict.fromkeys(names, curve), "latents": latents | {"active": active}}


def write(folder: Path, metrics: Mapping[str, Sequence[float]] = METRICS, previews: int = 3) -> Path:
    """A run folder with all that a run may leave."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    names = list(metrics)
    rows = [",".join(["step", *names])]
    for place, values in enumerate(zip(*metrics.values(), strict=True)):
        rows.append(",".join(map(str, [10 * (place + 1), *values])))
    (folder / "metrics.csv").write_text("\r\n".join(rows) + "\r\n")
    (folder / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in (START, END)))
    (folder / "curves.jsonl").write_text("".join(json.dumps(record(step)) + "\n" for step in (0, 200, 400)))
    (folder / "run.log").write_text(
        "2026-05-04 12:00:01,000 INFO step 10/400  2%  5.00 it/s  eta 1m18s\n"
        "2026-05-04 12:04:59,000 WARNING No font for ☃ was found\n"
        "2026-05-04 12:05:00,000 INFO 400 steps in 5m00s\n"
    )
    rejected = [{"source": "a.tar", "key": "7", "reason": "no caption"}] * 2
    rejected += [{"source": "a.tar", "key": "9", "reason": "damaged picture"}]
    (folder / "rejected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rejected))
    for file in [*(f"previews/step_{200 * number:06d}.png" for number in range(previews)), "samples/grid.png"]:
        (folder / file).parent.mkdir(exist_ok=True)
        Image.effect_noise((600, 300), 80).save(folder / file)
    return folder


EVALUATION: dict[str, Any] = {
    "format": 1, "command": "python -m fluxflow.evaluate outputs/vae/mine", "fluxflow": "0.1.0", "commit": None,
    "model": {"path": "outputs/vae/mine/model", "stage": "vae", "sha256": "0" * 64, "step": 400},
    "data": {"name": "demo", "fingerprint": "f", "samples": 221}, "settings": {},
    "measures": [
        {"name": "psnr", "title": "PSNR", "unit": "dB", "better": "higher", "value": 20.68, "low": 20.41, "high": 20.97,
         "n": 221, "group": "reconstruction"},
        {"name": "kid", "title": "KID", "unit": "", "better": "lower", "value": 0.0452, "low": 0.04, "high": 0.05,
         "n": 221, "group": "samples"},
    ],
    "curves": [{"title": "Loss by time", "x_title": "t", "y_title": "error", "x": [0.1, 0.5, 0.9],
                "series": {"with captions": [0.1, 0.5, 0.9], "without": [0.2, 0.6, 1.0]}}],
}  # fmt: skip
