"""A complete model of the smallest size, over a text encoder of random weights and a vocabulary of a few words."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from fluxflow.models import BertTextEncoder, FluxCompressor, FluxExpander, FluxFlowProcessor
from fluxflow.pipeline import FluxFlowPipeline

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "green", "blue", "dress", "shirt", "shoe"]
D, TEXT = 8, 12


def tokenizer(numbers: dict[str, int] | None = None) -> PreTrainedTokenizerFast:
    numbers = numbers or {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")


def text_encoder() -> BertTextEncoder:
    backbone = {
        "model_type": "bert", "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
    }  # fmt: skip
    encoder = BertTextEncoder(TEXT, backbone=backbone).eval()
    encoder.tokenizer = tokenizer()
    return encoder


def vae(seed: int = 0) -> tuple[FluxCompressor, FluxExpander]:
    torch.manual_seed(seed)
    return FluxCompressor(d_model=D, downscales=2, attn_layers=1, attn_heads=2).eval(), FluxExpander(D, 2).eval()


def flow() -> FluxFlowProcessor:
    """A flow off its start, at which the velocity is zero."""
    made = FluxFlowProcessor(d_model=16, vae_dim=D, embedding_size=TEXT, n_head=2, n_layers=2)
    torch.nn.init.normal_(made.dmodel_to_vae.weight, std=0.2)
    return made.eval()


def pipeline(seed: int = 0) -> FluxFlowPipeline:
    compressor, expander = vae(seed)
    made = FluxFlowPipeline(
        compressor, expander, flow(), text_encoder(), latent_mean=torch.randn(D), latent_std=torch.rand(D) + 0.5,
        sample_size=16,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made
