"""Losses of labelled tokens."""

import torch
from torch import nn


def token_losses(
    logits: torch.Tensor, targets: torch.Tensor, *, gamma: float = 0.0, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """(n,) losses in nats from logits (n, vocabulary) and target ids (n,).

    With p the probability of the target, -(1 - p)^gamma log p: the cross-entropy at gamma 0, else the focal loss (Lin et
    al. 2017, equation 4), times `weight` (n,) where that is given.
    """
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    if gamma:
        # The power of 0 has no slope below gamma 1, and a token that sure needs none.
        losses = (-torch.expm1(-losses)).clamp(min=1e-6) ** gamma * losses
    return losses if weight is None else losses * weight
