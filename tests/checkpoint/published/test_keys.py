from itertools import pairwise

import torch
from torch import nn

from fluxflow.models import FluxCompressor, FluxExpander, FluxFlowProcessor
from fluxflow.models.activations import BezierActivation
from fluxflow.published.keys import Pattern, counterparts, derived
from tests import golden


def test_wildcards_keep_their_order() -> None:
    pattern = Pattern("a.#.b.*", "x.#.*", grouped=0)
    assert pattern.rename("a.12.b.c.weight") == "x.12.c.weight"
    assert pattern.rename("a.c.b.weight") is None


def test_rows_are_grouped_where_a_curve_follows_and_nowhere_else() -> None:
    """By walking the networks, which the table does not."""
    for component, cls in (("compressor", FluxCompressor), ("expander", FluxExpander)):
        network = cls(**golden.arguments(component))
        fed = {}
        for name, module in network.named_modules():
            layers = list(module.named_children()) if isinstance(module, nn.Sequential) else []
            for (child, layer), (_, following) in pairwise(layers):
                if isinstance(following, BezierActivation):
                    fed[f"{name}.{child}.weight"] = int(isinstance(layer, nn.ConvTranspose2d))
                    fed[f"{name}.{child}.bias"] = 0
        table = {part.ours: part.grouped for part in counterparts(component, network).values()}
        assert {key: dim for key, dim in table.items() if dim is not None} == {
            k: d for k, d in fed.items() if k in table
        }


def test_writing_undoes_reading() -> None:
    network = FluxExpander(**golden.arguments("expander"))
    for name, part in counterparts("expander", network).items():
        tensor = golden.parameters("expander")[name]
        assert torch.equal(part.write(part.read(tensor)), tensor)


def test_derived_tensors_are_the_recorded_ones() -> None:
    flow = FluxFlowProcessor(**golden.arguments("flow_processor", "0.8.0"))
    recorded = golden.parameters("flow_processor", "0.8.0")
    for name, tensor in derived(flow).items():
        torch.testing.assert_close(tensor, recorded[name], rtol=1e-6, atol=0)
