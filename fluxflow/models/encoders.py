"""Text encoders: a frozen language model from transformers and a Bézier projection that is trained with the flow."""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModel,
    DistilBertConfig,
    PretrainedConfig,
)

from fluxflow.errors import TextEncoderError, reason
from fluxflow.formats import backbone_settings
from fluxflow.models.activations import BezierActivation
from fluxflow.models.conditioning import init_xavier
from fluxflow.models.norms import LayerNorm
from fluxflow.models.registry import digest
from fluxflow.models.text_encoder import WORDS, TextEncoder, load_tokenizer, locate
from fluxflow.schema import read_json


class WordLayers(nn.Sequential):
    """Layers over sentence and words, [B, 1 + L, hidden] → [B, 1 + L, E]; rows of zeros stay what they are."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * input.ne(0).any(dim=-1, keepdim=True)


class BertTextEncoder(TextEncoder):
    """A sentence as one vector: language model, mean over its tokens, two Bézier layers; or as that and its words.

    The language model is frozen and stays in eval mode; the projection is trained.

    Args:
        embed_dim: size of the embedding.
        pretrain_model: folder, pip package or hub name of an encoder; None for a DistilBERT of random weights.
        download: whether the hub may be asked for it.
        backbone: the transformers configuration to build, without weights, in place of `pretrain_model`.
        padded_length: tokens to which captions are padded and over all of which the mean runs, padding included, as the
            published package does with 512; None: the mean over the real tokens.
        words: give each token a vector as well, which version 1.0 of the flow attends to.

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
        words: bool = False,
    ) -> None:
        super().__init__()
        self.padded_length, self.words = padded_length, words
        self.tokenizer = None
        if pretrain_model is None:
            self.language_model = AutoModel.from_config(_configuration(backbone), trust_remote_code=False)
        else:
            self._load(pretrain_model, download)
        self.language_model.requires_grad_(False).eval()
        configuration = self.language_model.config
        self.config = {"embed_dim": embed_dim, "backbone": configuration.to_dict(), "padded_length": padded_length}
        if words:
            self.config["words"] = True
        self.hidden_size: int = configuration.hidden_size
        self.max_length: int = configuration.max_position_embeddings
        self.cut_captions: set[int] = set()  # hashes of those that were longer than `window`
        self.output_layer = (WordLayers if words else nn.Sequential)(
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

    def _apply(self, *args: Any, **kwargs: Any) -> "BertTextEncoder":
        self._features.clear()  # they have the type and the device of the weights
        return super()._apply(*args, **kwargs)

    def train(self, mode: bool = True) -> "BertTextEncoder":
        super().train(mode)
        self.language_model.eval()
        return self

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return (1 + WORDS, self.hidden_size) if self.words else (self.hidden_size,)

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
        """Mean of the language model's last states over the real tokens, or with `padded_length` all, [B, hidden].

        With `words` the states follow it, [B, 1 + S, hidden], zero where there is no token.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        with torch.no_grad():
            states = self.language_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.padded_length is not None:
            return states.mean(dim=1)
        weight = mask[..., None].to(states.dtype)
        mean = (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        return torch.cat([mean[:, None], states * weight], dim=1) if self.words else mean

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeds tokenised sentences.

        Args:
            input_ids: [B, S].
            attention_mask: 1 for real tokens, 0 for padding, [B, S]; all real where it is None.

        Returns:
            [B, embed_dim].
        """
        return self.output_layer(self.features(input_ids, attention_mask))

    def caption_features(self, captions: list[str]) -> Tensor:
        """What the frozen language model makes of sentences: the input of the projection.

        Of shape [B, hidden]; with `words` [B, 1 + L, hidden], where L are the tokens of the longest.

        On a CPU the features of each caption are computed once, of it alone, and kept. Padding would leave in their
        last bits a trace of the batch in which the caption first came, and a resumed run would differ. Elsewhere a
        batch is encoded as a whole.

        Raises:
            TextEncoderError: if the encoder has no tokenizer.
        """
        device = next(self.output_layer.parameters()).device
        if device.type != "cpu":
            return self._tokenised_features(captions, device)
        if len(self._features) > (5_000 if self.words else 50_000):
            self._features = {caption: self._features[caption] for caption in captions if caption in self._features}
        for caption in dict.fromkeys(captions):
            if caption not in self._features:
                with torch.autocast("cpu", enabled=False):  # kept ones serve inside and outside of it
                    self._features[caption] = self._tokenised_features([caption], device)[0]
        found = [self._features[caption] for caption in captions]
        return pad_sequence(found, batch_first=True) if self.words else torch.stack(found)

    def _tokenised_features(self, captions: list[str], device: torch.device) -> Tensor:
        ids, mask = self.tokens(captions)
        if ids.shape[1] == 0:  # an empty caption, of a tokenizer without marks of its own
            return torch.zeros(len(captions), *[1] * self.words, self.hidden_size, device=device)
        known = self.language_model.get_input_embeddings().num_embeddings
        if not 0 <= ids.min() <= ids.max() < known:
            raise TextEncoderError(
                f"the tokenizer has a token of number {ids.max()}, and the language model knows {known}: they do not "
                "belong together"
            )
        padded = None if mask.all() else torch.from_numpy(mask).to(device)  # the model would ask it, on the device
        return self.features(torch.from_numpy(ids).to(device), padded)


def _configuration(backbone: dict | None) -> PretrainedConfig:
    if backbone is None:
        return DistilBertConfig()
    return AutoConfig.for_model(backbone["model_type"], **{k: v for k, v in backbone.items() if k != "model_type"})
