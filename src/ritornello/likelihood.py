"""The negative log-likelihood of tokens: the one loss of training and evaluation, free or under the grammar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ritornello import codec


def token_nats(logits: Tensor, targets: Tensor, context: codec.Context | None) -> Tensor:
    """-ln p(target), in nats, (B, T); 0 where the target is PAD.

    Args:
        logits: (B, T, V).
        targets: (B, T) int64.
        context: the targets' grammar contexts as tensors (B, T, ...): illegal logits are masked before the softmax
            ("legal" nats). None: a softmax over all events ("free" nats).
    """
    if context is not None:
        logits = logits.masked_fill(~codec.legal_events(context, torch), -torch.inf)
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=codec.PAD, reduction="none")
    return flat.view_as(targets)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in bfloat16 where the precision is ``bf16``; else all is in that of the weights."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def to_device(context: codec.Context | None, device: torch.device) -> codec.Context | None:
    if context is None:
        return None
    return codec.Context(*(torch.from_numpy(field).to(device, non_blocking=True) for field in context))
