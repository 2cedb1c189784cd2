"""How published checkpoints name their tensors and order their rows: one table, from which both directions follow.

Only names that differ, or rows that do, have an entry. The table leads from our names to the published ones, and what a
network holds decides which names there are: a published tensor is read because one of ours asks for it.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fluxflow.models.flow import FluxFlowProcessor
from fluxflow.published.layout import groups_of_planes, inverse_frequencies, planes_of_groups


@dataclass(frozen=True)
class Pattern:
    """One kind of tensor.

    Args:
        ours: our name; `#` stands for an index, `*` for any part.
        published: the published name with the same wildcards in the same order; ours by default.
        grouped: the dimension whose rows feed a Bézier curve: groups of five neighbours there, five planes here.
    """

    ours: str
    published: str = ""
    grouped: int | None = None

    def rename(self, key: str) -> str | None:
        """Return the published name of our `key`, None if this is another kind of tensor."""
        found = re.fullmatch(re.escape(self.ours).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"), key)
        if found is None:
            return None
        parts = iter(found.groups())
        return re.sub(r"[#*]", lambda _: next(parts), self.published or self.ours)


TABLE: dict[str, tuple[Pattern, ...]] = {
    "compressor": (
        Pattern("encoder_first_step.#.0.*", grouped=0),
        Pattern("encoder_z.#.0.*", grouped=0),
        Pattern("latent_proj.#.0.*", grouped=0),
        Pattern("mu_proj.#.0.*", grouped=0),
        Pattern("logvar_proj.#.0.*", grouped=0),
        Pattern("token_attn.#.ff.0.*", grouped=0),
    ),
    "expander": (
        Pattern("upscale.#.conv1.0.weight", "upscale.layers.#.conv1.0.weight", grouped=1),  # transposed: [in, out, …]
        Pattern("upscale.#.conv1.*", "upscale.layers.#.conv1.*", grouped=0),
        Pattern("upscale.*", "upscale.layers.*"),
    ),
    "flow_processor": (),
    "text_encoder": (Pattern("output_layer.*", "ouput_layer.*", grouped=0),),
    "discriminator": (
        Pattern("*.parametrizations.weight.original", "*.weight_orig"),
        Pattern("*.parametrizations.weight.0._*", "*.weight_*"),
    ),
}
ANY_OTHER = Pattern("*")


@dataclass(frozen=True)
class Counterpart:
    """What a published tensor becomes here.

    Args:
        ours: its name here.
        shape: of both.
        grouped: as in `Pattern`.
    """

    ours: str
    shape: tuple[int, ...]
    grouped: int | None

    def read(self, tensor: Tensor) -> Tensor:
        """Return the published tensor in our order of rows."""
        return tensor if self.grouped is None else planes_of_groups(tensor, self.grouped)

    def write(self, tensor: Tensor) -> Tensor:
        """Return our tensor in the published order of rows."""
        return tensor if self.grouped is None else groups_of_planes(tensor, self.grouped)


def counterparts(component: str, network: nn.Module) -> dict[str, Counterpart]:
    """Return published name → counterpart for every tensor of `network`, which may be on the meta device."""
    return {
        published: Counterpart(key, tuple(tensor.shape), pattern.grouped)
        for key, tensor in network.state_dict().items()
        for published, pattern in [_published(component, key)]
    }


def derived(network: nn.Module) -> dict[str, Tensor]:
    """Return the published tensors that only repeat a constructor's argument: the frequencies of the positions."""
    if not isinstance(network, FluxFlowProcessor):
        return {}
    frequencies = inverse_frequencies(network.head_dim, torch.device("cpu"))
    count = len(network.transformer_blocks)
    return {f"transformer_blocks.{index}.rotary_pe.inv_freq": frequencies.clone() for index in range(count)}


def _published(component: str, key: str) -> tuple[str, Pattern]:
    for pattern in (*TABLE[component], ANY_OTHER):
        if (name := pattern.rename(key)) is not None:
            return name, pattern
    raise AssertionError(key)  # ANY_OTHER takes every key
