"""compile=true: the same weights under the same names, within rounding."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD

from fluxflow.errors import ConfigError
from fluxflow.models.compilation import compile_networks
from tests.training import stages


def trained(stage: str, prepare: Callable[[Any], None]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    make = partial(SGD, lr=1e-2)
    module = stages.STAGES[stage](optimizer=make, **({"discriminator_optimizer": make} if stage == "vae" else {}))
    prepare(module)
    stages.fit(module, steps=3)
    return stages.weights(module)


@pytest.mark.slow
@pytest.mark.parametrize("stage", stages.STAGES)
def test_compiled_training_is_training(stage: str) -> None:
    plain, compiled = trained(stage, lambda module: None), trained(stage, compile_networks)
    assert list(plain) == list(compiled)
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("stage", stages.STAGES)
def test_what_is_compiled(stage: str) -> None:
    module = stages.STAGES[stage]()
    names = list(module.state_dict())
    compile_networks(module)
    compiled = {type(part).__name__ for part in module.modules() if part._compiled_call_impl is not None}
    assert compiled == ({"FluxCompressor", "FluxExpander"} if stage == "vae" else {"FlowBlock"})
    assert list(module.state_dict()) == names


def test_without_a_compiler_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"compile=true needs a C\+\+ compiler"):
        compile_networks(stages.STAGES["flow"]())
