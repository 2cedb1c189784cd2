"""The rows of the table: what both sides do, and how much better ours has to be."""

from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.pairs import Compared

Work = tuple[str, dict[str, Any]]  # a function of benchmarks/ours.py or peer_steps.py, and its arguments
SECONDS, PEAK = 0, 1  # columns of the answers


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        what: is compared, for the reader.
        bar: what `judged` has to reach.
        ours: what we do.
        theirs: what the published package does; None: the row compares two things of ours.
        other: what we do in its place where the published package is not at hand; None: there is nothing like it.
        judged: "ratio": theirs over ours, at least; "share": ours over theirs, at most; "own": our number, at most.
        unit: of the numbers: "s", "MB" or "inputs".
        column: of the answers.
        files: whether pictures, VAE, text encoder and cache are needed.
    """

    what: str
    bar: float
    ours: Work
    theirs: Work | None
    other: Work | None = None
    judged: Literal["ratio", "share", "own"] = "ratio"
    unit: Literal["s", "MB", "inputs"] = "s"
    column: int = SECONDS
    files: bool = False

    def numbers(self, compared: Compared) -> list[float]:
        """What is judged, of each pair."""
        match self.judged:
            case "ratio":
                return [b / a for a, b in zip(compared.ours, compared.other, strict=True)]
            case "share":
                return [a / b for a, b in zip(compared.ours, compared.other, strict=True)]
            case "own":
                return compared.ours

    def reached(self, median: float) -> bool:
        return median >= self.bar if self.judged == "ratio" else median <= self.bar


def stage1(what: str, bar: float, sizes: dict[str, Any], precision: str = "fp32", **options: Any) -> Row:
    naive: Work = ("vae", sizes | {"naive": True})
    return Row(what, bar, ("vae", sizes | {"precision": precision}), ("vae", sizes), naive, **options)


def rows(toy: bool = False) -> dict[str, Row]:
    """All rows by name; `toy` ones only show that they run."""
    small = {"dim": 8 if toy else 32, "side": 32 if toy else 64, "batch": 2}
    large = small if toy else {"dim": 128, "side": 64, "batch": 1}
    memory = small if toy else {"dim": 128, "side": 128, "batch": 1}
    flow = {
        "vae_dim": 8 if toy else 128,
        "dim": 32 if toy else 256,
        "layers": 1 if toy else 4,
        "side": 32 if toy else 256,
    }
    bf16 = {"precision": "bf16"}
    step = flow | {"batch": 2 if toy else 4}
    shape = [1, 5, 8, 8] if toy else [2, 640, 64, 64]
    curve = {"shape": shape, "repeats": 1 if toy else 30}
    return {
        "vae32": stage1("stage-1 step, GAN, dim 32, 64 px, batch 2, fp32", 5, small),
        "vae128": stage1("stage-1 step, GAN, dim 128, 64 px, batch 1, fp32", 5, large),
        "vae32_bf16": stage1("the first in bf16, against fp32", 8, small, "bf16"),
        "vae128_bf16": stage1("the second in bf16, against fp32", 8, large, "bf16"),
        "vae_memory": stage1("peak memory of the step, dim 128, 128 px, batch 1", 0.5, memory, judged="share",
                             unit="MB", column=PEAK),
        "flow": Row("stage-2 step, latents and text features given", 2, ("flow", step), ("flow", step), files=True),
        "flow_pictures": Row("stage-2 step from pictures and captions in memory", 2, ("flow_pictures", step),
                             ("flow_pictures", step), files=True),
        "flow_cached": Row("stage-2 step from the cache, against from JPEG files", 8, ("flow_cached", step),
                           ("flow_files", step), ("flow_pictures", step), files=True),
        "flow_bf16": Row("stage-2 step in bf16, against fp32", 2, ("flow", step | bf16), ("flow", step),
                         ("flow", step | {"naive": True}), files=True),
        "flow_cached_bf16": Row("stage-2 step from the cache in bf16, against fp32", 8, ("flow_cached", step | bf16),
                                ("flow_files", step), ("flow_pictures", step), files=True),
        "bezier": Row(f"Bézier, forward and backward, {shape}", 6, ("bezier", curve), ("bezier", curve),
                      ("bezier", curve | {"naive": True})),
        "bezier_saved": Row("what it keeps for the backward", 1, ("bezier_saved", {"shape": shape}),
                            ("bezier_saved", {"shape": shape}), ("bezier_saved", {"shape": shape, "naive": True}),
                            judged="own", unit="inputs"),
        "sampling": Row("sampling, 256 px, guidance 5, 20 steps each", 2, ("sampling", flow | {"steps": 20}),
                        ("sampling", flow | {"steps": 20}), files=True),
        "sampling_default": Row("sampling at the default steps, 20 against 50", 5, ("sampling", flow | {"steps": 20}),
                                ("sampling", flow | {"steps": 50}), ("sampling", flow | {"steps": 50}), files=True),
        "help": Row("train.py --help", 1, ("command", {"arguments": ["train.py", "--help"]}),
                    ("command", {"arguments": ["-m", "fluxflow_training.scripts.train", "--help"]}),
                    judged="own"),
        "import": Row("import fluxflow", 0.2, ("command", {"arguments": ["-c", LIGHT]}),
                      ("command", {"arguments": ["-c", "import fluxflow"]}),
                      judged="own"),
        "loop": Row("stage-2 loop in Lightning, over a plain one", 1.05, ("flow_cached", step), None,
                    ("flow_bare", step), judged="share", files=True),
    }  # fmt: skip


LIGHT = "import sys, fluxflow; sys.exit('torch' in sys.modules)"  # fails if torch came along
