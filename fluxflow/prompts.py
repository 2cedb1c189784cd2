"""From prompts to embeddings, in the forms that diffusers' pipelines take them."""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.errors import ConfigError
from fluxflow.models.text_encoder import TextEncoder

log = logging.getLogger(__name__)

Prompt = str | Sequence[str] | None


def embeddings(
    encoder: TextEncoder | None, prompt: Prompt, text: Tensor | None, negative: Prompt, null_text: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of prompts and of negative prompts, [B, E] each; every caption is encoded once.

    Args:
        encoder: makes embeddings of captions; None where they are given.
        prompt, text: captions, or their embeddings.
        negative, null_text: what to guide away from, likewise, one for all or one each; by default the empty caption.

    Raises:
        ConfigError: captions and embeddings at once, none of them, or other numbers of them.
    """
    if (prompt is None) == (text is None):
        raise ConfigError("Give either prompt or prompt_embeds.")
    if negative is not None and null_text is not None:
        raise ConfigError("Give either negative_prompt or negative_prompt_embeds.")
    prompts = _captions(prompt) if text is None else []
    negatives = _captions(negative or "") if null_text is None else []
    count = len(prompts if text is None else text)
    null_count = len(negatives if null_text is None else null_text)
    if count == 0:
        raise ConfigError("prompt is an empty list; give at least one caption.")
    if null_count not in (1, count):
        raise ConfigError(f"{null_count} negative prompts for {count} prompts; give one or as many.")
    captions = list(dict.fromkeys(prompts + negatives))
    made = dict(zip(captions, _encode(encoder, captions), strict=True)) if captions else {}
    text = torch.stack([made[caption] for caption in prompts]) if text is None else text
    null_text = torch.stack([made[caption] for caption in negatives]) if null_text is None else null_text
    return alike(text, null_text.expand(count, *null_text.shape[1:]))


def alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two texts [B, L, …] with equally many words, the missing ones zero; those of one vector each as they are."""
    words = max(first.shape[1], second.shape[1])
    padded = [F.pad(one, [0, 0] * (one.dim() - 2) + [0, words - one.shape[1]]) for one in (first, second)]
    return padded[0], padded[1]


def _encode(encoder: TextEncoder | None, captions: list[str]) -> Tensor:
    """Return the embeddings [B, E]; of a caption that is too long, it is said once what does not count."""
    if encoder is None:
        raise ConfigError("This pipeline has no text encoder: give prompt_embeds and negative_prompt_embeds.")
    known = set(encoder.cut_captions)
    made = encoder.encode(captions)
    for caption in captions:
        if hash(caption) in encoder.cut_captions - known:
            left_out = encoder.beyond(caption)
            log.warning("A prompt is longer than %d tokens; this does not count: %s", encoder.window, left_out)
    return made


def _captions(prompt: Prompt) -> list[str]:
    return [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
