"""The versions of the model, the published ones and our own, each as what it has and the others lack; without torch."""

from dataclasses import dataclass, replace

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
    """

    map_curve: str = "sigmoid"
    rgb_points: tuple[float, float, float, float] = (-1.0, 0.25, 0.75, 1.0)
    spade_scale: bool = True
    context_mixer: bool = True
    token_norm: bool = False
    context_channels: int = 0
    pillar_text: bool = False
    light_discriminator: bool = False


DEFAULT_VERSION = "0.3.0"
_V030 = Version()
# What fluxflow 0.8.1 calls 0.3.0, and trains under that name: not what fluxflow 0.3.1 to 0.5.0 compute.
_V030_ADDITIVE = replace(
    _V030, map_curve="tanh", rgb_points=(-0.5, -0.05, 0.05, 0.5), spade_scale=False, light_discriminator=True
)
_V060 = replace(_V030_ADDITIVE, context_mixer=False, token_norm=True)
_V070 = replace(_V060, context_channels=5)
_V080 = replace(_V070, pillar_text=True)
_V030_TEXT = replace(_V030, pillar_text=True)  # FluxFlow's own; nothing published reads it

VERSIONS: dict[str, Version] = {
    "0.3.0": _V030,
    "0.3.0-additive": _V030_ADDITIVE,
    "0.6.0": _V060,
    "0.7.0": _V070,
    "0.8.0": _V080,
    "0.3.0-text": _V030_TEXT,
}


def version_of(name: str) -> Version:
    """Return the version called `name`.

    Raises:
        ConfigError: there is none; the message names those that exist.
    """
    if name not in VERSIONS:
        raise ConfigError(f"unknown model version {name!r}: choose one of {', '.join(VERSIONS)}")
    return VERSIONS[name]
