"""A GPT after nanoGPT: pre-LayerNorm, no biases, tied embedding and head.

It is made of torch's own layers and knows nothing of rounding: ``surgery`` swaps linear layers and dropout.
Shapes: B batch, T time, C channels, V vocabulary.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli.config.model import ModelConfig

linear = partial(nn.Linear, bias=False)
_norm = partial(nn.LayerNorm, bias=False)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = linear(config.n_embd, config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, heads, T, C / heads)
        return self.drop(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = linear(4 * config.n_embd, config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.c_proj(F.gelu(self.c_fc(x))))


class Block(nn.Module):
    """LayerNorm, attention, LayerNorm, MLP, each half on a residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1 = _norm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = _norm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Body(nn.Module):
    """What is below a head: tokens (B, T) become features (B, T, C), normalised."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = _norm(config.n_embd)

    def features(self, tokens: Tensor) -> Tensor:
        """(B, T, C); position t knows of the tokens up to t and of no later one."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        features: Tensor = self.ln_f(x)
        return features


class GPT(Body):
    """Tokens (B, T) in, logits (B, T, V) out. The head's weight is the token embedding's."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.lm_head = linear(config.n_embd, vocab_size)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lm_head(self.features(tokens))


def cross_entropy(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Next-token loss in nats: logits (B, T, V), targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


@torch.no_grad()
def initialize(model: Body, generator: torch.Generator) -> None:
    """nanoGPT's initialisation: N(0, 0.02), residual projections narrowed by sqrt(2 n_layer).

    ``generator`` is on the CPU: the initial bits do not depend on the device.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue  # LayerNorm gains start at 1
        std = 0.02 / math.sqrt(2 * model.config.n_layer) if name.endswith("c_proj.weight") else 0.02
        parameter.copy_(torch.normal(0.0, std, parameter.shape, generator=generator))
