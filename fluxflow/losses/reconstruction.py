"""How far a picture is from the original."""

import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(prediction: Tensor, target: Tensor, mse_weight: float = 0.1) -> Tensor:
    """L1 + `mse_weight`·MSE, each the mean over all elements."""
    return F.l1_loss(prediction, target) + mse_weight * F.mse_loss(prediction, target)
