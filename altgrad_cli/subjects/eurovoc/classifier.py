"""The network: the GPT's body, the mean over the tokens of a document, a linear head; and its loss.

Shapes: B batch, T time, C channels, L labels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from altgrad_cli.config.model import ModelConfig
from altgrad_cli.subjects.gpt.model import Body, linear

PAD = -1
"""Stands behind the last token of a document that is shorter than a block."""


class Classifier(Body):
    """Tokens (B, T) in, ``PAD`` behind each document's last, logits (B, L) out.

    Attention is causal and padding comes last, so that no token sees any, and the mean leaves it out: what
    stands at padded places has no part in logits and gradients. (What is rounded with one scale a tensor is
    rounded together with what stands there.) A row without a token has the mean 0.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, labels: int) -> None:
        super().__init__(config, vocab_size)
        self.label_head = linear(config.n_embd, labels)

    def forward(self, tokens: Tensor) -> Tensor:
        padded = (tokens == PAD).unsqueeze(-1)  # (B, T, 1)
        features = self.features(tokens.clamp(min=0)).masked_fill(padded, 0)
        length = (~padded).sum(1).clamp(min=1)
        logits: Tensor = self.label_head(features.sum(1) / length)
        return logits


def binary_cross_entropy(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Loss in nats a label: logits (B, L), targets (B, L) of 0 and 1; its mean over labels and documents."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction=reduction)
