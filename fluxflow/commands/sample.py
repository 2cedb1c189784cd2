"""`python sample.py`, or `fluxflow-sample`: sample from a trained model.

    python sample.py run=outputs/flow/<run> prompts='["a red dress"]' seeds=[0,1]

The run of a VAE gives images beside their reconstructions. `--help` lists every key.
"""

from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import hydra
from omegaconf import DictConfig

from fluxflow.commands.build import resolved
from fluxflow.commands.configuration import unknown_key
from fluxflow.commands.hydra_app import job, run
from fluxflow.commands.objects import CONFIGS
from fluxflow.commands.values import check_bounds, check_value
from fluxflow.errors import ConfigError
from fluxflow.runs import check_model


@dataclass(frozen=True)
class SampleConfig:
    """What to sample; the fields are the keys of configs/sample.yaml, which explains them.

    Raises:
        ConfigError: no prompts or no seeds.
    """

    run: str
    text_model: str | None
    out: str | None
    device: str
    prompts: list[str]
    prompts_file: str | None
    negative_prompt: str
    seeds: list[int]
    steps: int
    guidance: float
    height: int | None
    width: int | None
    compile: bool
    tile: int | None
    images: str | None
    count: int

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SampleConfig":
        """Take the keys of a composed config.

        Raises:
            ConfigError: an unknown key, with the nearest names; a value of another kind or out of range.
        """
        names = [field.name for field in fields(cls)]
        for key in config:
            if key not in names:
                raise ConfigError(unknown_key(key, names))
        for key in names:
            if key not in config:
                raise ConfigError(f"{key} is missing: give {key}=, or leave out the override that removes it.")
        given = dict(config)
        for key in ("prompts", "seeds"):
            given[key] = config[key] if isinstance(config[key], list) else [config[key]]
        for key, hint in get_type_hints(cls).items():
            check_value(key, given[key], hint)
        check_bounds(config)
        return cls(**given)

    def __post_init__(self) -> None:
        for name in ("prompts", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is an empty list: give at least one.")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="sample")
@job
def main(config: DictConfig) -> None:
    """Sample what `config` asks for."""
    check_model(config.run)  # refused before torch is imported, which takes seconds
    from fluxflow.commands.sampling import sample

    sample(SampleConfig.from_config(resolved(config)))


def command() -> None:
    """Run the command; a mistake in its options is one line on stderr."""
    run(main)
