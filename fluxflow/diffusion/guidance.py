"""Classifier-free guidance (Ho & Salimans, 2022)."""

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale·(conditional − unconditional); a scale of 1 is the plain conditional prediction."""
    return unconditional + scale * (conditional - unconditional)
