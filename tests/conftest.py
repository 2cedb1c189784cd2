"""What every test shares: a fixed seed, signals as in a terminal, and hypothesis without a clock or chance."""

import signal

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("fluxflow", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("fluxflow")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell gives it to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as nohup gives it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
