"""The versions of the model, the published ones and our own, each as what it has and the others lack; without torch."""

from dataclasses import dataclass, replace
from typing import Any

from fluxflow.errors import ConfigError


@dataclass(frozen=True)
class Version:
    """What a model version computes; the defaults are those of 0.3.0.

    Args:
        map_curve: activation of the parameter t in the VAE's Bézier curves over maps, posterior aside.
        rgb_points: initial control points of the colour curves.
        spade_scale: SPADE multiplies by 1 + γ before it adds β.
        context_mixer: the expander carries a mixer on which nothing depends.
        token_norm: LayerNorm and tanh keep the latent tokens in (-1, 1).
        context_channels: channels that the packet carries beside the latent: they alone come from the self-attention,
            and modulate the expander, whose SPADE normalises even without them. 0: the latent itself modulates.
        pillar_text: the text modulates the input of the flow's pillars (FiLM) and joins their output.
        light_discriminator: strided 4×4 convolutions without spectral normalisation.
        residual: the VAE is made of residual blocks (models/residual.py).
        words: the flow is a diffusion transformer that attends to each token of the caption (models/transformer.py).
    """

    map_curve: str = "sigmoid"
    rgb_points: tuple[float, float, float, float] = (-1.0, 0.25, 0.75, 1.0)
    spade_scale: bool = True
    context_mixer: bool = True
    token_norm: bool = False
    context_channels: int = 0
    pillar_text: bool = False
    light_discriminator: bool = False
    residual: bool = False
    words: bool = False


DEFAULT_VERSION = "0.3.0"
_V030 = Version()
# What fluxflow 0.8.1 calls 0.3.0, and trains under that name: not what fluxflow 0.3.1 to 0.5.0 compute.
_V030_ADDITIVE = replace(
    _V030, map_curve="tanh", rgb_points=(-0.5, -0.05, 0.05, 0.5), spade_scale=False, light_discriminator=True
)
_V060 = replace(_V030_ADDITIVE, context_mixer=False, token_norm=True)
_V070 = replace(_V060, context_channels=5)
_V080 = replace(_V070, pillar_text=True)
# FluxFlow's own; nothing published reads them.
_V030_TEXT = replace(_V030, pillar_text=True)
_V100 = replace(_V030, residual=True, words=True)

VERSIONS: dict[str, Version] = {
    "0.3.0": _V030,
    "0.3.0-additive": _V030_ADDITIVE,
    "0.6.0": _V060,
    "0.7.0": _V070,
    "0.8.0": _V080,
    "0.3.0-text": _V030_TEXT,
    "1.0": _V100,
}


def version_of(name: str) -> Version:
    """Return the version called `name`.

    Raises:
        ConfigError: there is none; the message names those that exist.
    """
    if name not in VERSIONS:
        raise ConfigError(f"unknown model version {name!r}: choose one of {', '.join(VERSIONS)}")
    return VERSIONS[name]


WIDTHS = (64, 64)  # channels of the VAE of version 1.0 from the finest resolution to that of the latent
# Options that version 1.0 alone has, and those that it alone lacks, with their defaults.
OWN = {"activation": "bezier", "expansion": 1.0, "widths": list(WIDTHS)}
LACKING = {"attn_layers": 4, "attn_heads": 8, "attn_ff_mult": 2, "ctx_tokens": 4, "layout": "planar"}
Options = dict[str, Any]


def check_own(version: str, lacking: Options, **own: Any) -> Options:
    """Return what of the options of version 1.0 belongs to the config of a network of `version`: all or nothing.

    Args:
        version: a key of `VERSIONS`.
        lacking: options of the network that version 1.0 has not.
        own: options of the network that it alone has.

    Raises:
        ConfigError: an option that the version has not, and that is not at its default.
    """
    is_own = version_of(version).words
    defaults, given = (LACKING, lacking) if is_own else (OWN, own)
    for name, value in given.items():
        if value != defaults[name]:
            whose = "the published versions" if is_own else "model.version=1.0"
            raise ConfigError(f"{name}={value} is for {whose}: version {version} has no choice of it.")
    return own if is_own else {}
