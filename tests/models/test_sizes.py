"""The parameter counts that the original reports, at its sizes."""

import pytest
import torch

from fluxflow import models


def count(build: object) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


@pytest.mark.parametrize(
    ("build", "reported", "digits"),
    [
        (lambda: models.FluxCompressor(d_model=128, downscales=4, attn_layers=4, attn_heads=8), 12_580_553, 1),
        (lambda: models.FluxExpander(d_model=128, upscales=4), 94.07e6, 1e4),
        (lambda: models.FluxFlowProcessor(128, 128, 1024, n_head=8, n_layers=10), 5_373_824, 1),
        (lambda: models.BertTextEncoder(1024), 71.0e6, 1e5),
        (lambda: models.PatchDiscriminator(base_ch=64, depth=4, ctx_dim=128), 45.105e6, 1e3),
    ],
    ids=["compressor", "expander", "flow", "text encoder", "discriminator"],
)
def test_counts_agree_to_the_digit_shown(build, reported, digits):
    assert round(count(build) / digits) == round(reported / digits)


PUBLISHED = {
    "BezierActivation",
    "BertTextEncoder",
    "FiLM",
    "FluxCompressor",
    "FluxExpander",
    "FluxFlowPipeline",
    "FluxFlowProcessor",
    "FluxPipeline",
    "PatchDiscriminator",
    "SPADE",
    "TrainableBezier",
}


def test_public_names_of_the_published_package():
    assert set(models.__all__) >= PUBLISHED
    assert {getattr(models, name).__name__ for name in PUBLISHED} == PUBLISHED
