"""What every test shares: a fixed seed, and hypothesis without a clock or chance."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("fluxflow", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("fluxflow")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
