"""How good the reconstructions of a VAE are, and how much its latents say."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fluxflow.kernels.conv import to_signed
from fluxflow.losses import active_channels, kl_divergence
from fluxflow.metrics.distribution import cmmd, frechet_distance, kid
from fluxflow.metrics.features import EfficientNetLite0, Features
from fluxflow.metrics.image import l1, ms_ssim, psnr, ssim
from fluxflow.metrics.intervals import Interval
from fluxflow.metrics.measure import Evaluation
from fluxflow.models.latent_space import LatentSpace

FIDELITY = {
    "l1": ("L1", l1, "", "lower"),
    "psnr": ("PSNR", psnr, "dB", "higher"),
    "ssim": ("SSIM", ssim, "", "higher"),
    "ms_ssim": ("MS-SSIM", ms_ssim, "", "higher"),
}


@torch.no_grad()
def evaluate_reconstructions(
    space: LatentSpace, batches: Iterable[dict[str, Any]], features: Features | None
) -> Evaluation:
    """Reconstruct held-out images through the mean of their posterior.

    Args:
        space: the VAE.
        batches: of "image", uint8 [B, 3, H, W].
        features: of the KID, and of the perceptual distance where it has one; None: neither of the two.

    Returns:
        L1, PSNR, SSIM, MS-SSIM, the perceptual distance, KID against the originals; the KL divergence and the active
        channels.
    """
    values: dict[str, list[Tensor]] = {name: [] for name in (*FIDELITY, "perceptual", "kl")}
    found: dict[str, list[Tensor]] = {"originals": [], "reconstructions": [], "means": []}
    for batch in batches:
        image = to_signed(batch["image"].to(space.mean.device))
        reconstruction = space.reconstruct(image).float()
        for name, (_, fidelity, _, _) in FIDELITY.items():
            values[name].append(fidelity(reconstruction, image).cpu())
        if isinstance(features, EfficientNetLite0):
            values["perceptual"].append(features.distance(reconstruction, image).cpu())
        if features is not None:
            found["originals"].append(features(image).cpu())
            found["reconstructions"].append(features(reconstruction).cpu())
        mu, logvar, _ = space.compressor.posterior(image)
        values["kl"].append(bits_per_dimension(mu.float(), logvar.float(), image).cpu())
        found["means"].append(mu.flatten(2).float().cpu())
    result = Evaluation()
    for name, (title, _, unit, better) in FIDELITY.items():
        result.add(name, title, torch.cat(values[name]), group="reconstruction", unit=unit, better=better)
    if features is not None:
        if values["perceptual"]:
            title = f"perceptual distance ({features.label})"
            result.add("perceptual", title, torch.cat(values["perceptual"]), group="reconstruction", better="lower")
        originals, reconstructions = torch.cat(found["originals"]), torch.cat(found["reconstructions"])
        add_distances(result, "reconstruction", reconstructions, originals, features.label, paired=True)
    result.add("kl", "KL, per value of the image", torch.cat(values["kl"]), group="latents", unit="bits")
    means = torch.cat([one.transpose(0, 1).flatten(1) for one in found["means"]], dim=1)[None, :, :, None]
    active, channels = float(active_channels(means)), means.shape[1]
    exact, count = Interval(active, math.nan, math.nan), sum(map(len, values["kl"]))
    result.add("active_channels", f"active channels of {channels}", exact, count, group="latents", better="higher")
    return result


def bits_per_dimension(mu: Tensor, logvar: Tensor, image: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) of each image in bits, over its number of values 3·H·W, [B]."""
    nats = torch.stack([kl_divergence(m[None], v[None]) for m, v in zip(mu, logvar)]) * mu[0].numel()
    return nats / math.log(2) / image[0].numel()


def add_distances(
    result: Evaluation, group: str, samples: Tensor, photographs: Tensor, label: str, paired: bool = False
) -> None:
    """Add the KID, and what the field calls FID, FD-DINOv2 and CMMD where the features are theirs."""
    options: dict[str, Any] = {"group": group, "better": "lower"}
    prefix = "reconstruction_" if group == "reconstruction" else ""
    if len(samples) < 2 or len(photographs) < 2:
        return
    distance = Interval(*(1000 * bound for bound in kid(samples, photographs, paired)))
    result.add(f"{prefix}kid", f"KID ×10³ ({label})", distance, len(samples), **options)
    if label == "CLIP":
        result.add(f"{prefix}cmmd", "CMMD", cmmd(samples, photographs, paired), len(samples), **options)
    if label in ("Inception", "DINOv2"):
        name, title = {"Inception": ("fid", "FID"), "DINOv2": ("fd_dinov2", "FD-DINOv2")}[label]
        value = Interval(frechet_distance(samples, photographs), math.nan, math.nan)
        result.add(f"{prefix}{name}", title, value, len(samples), **options)
