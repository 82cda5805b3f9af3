"""A GPT after nanoGPT: pre-LayerNorm, no biases, tied embedding and head.

It knows nothing of rounding: ``surgery`` swaps its linear layers for others.
Shapes: B batch, T time, C channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli.config.model import ModelConfig

MakeLinear = Callable[[int, int], nn.Module]
"""(in_features, out_features) -> a layer with a ``weight`` of shape (out_features, in_features)."""


def plain_linear(in_features: int, out_features: int) -> nn.Module:
    """torch's own linear layer, without bias."""
    return nn.Linear(in_features, out_features, bias=False)


class LayerNorm(nn.Module):
    """LayerNorm with a gain and no bias."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight)


class Dropout(nn.Module):
    """Dropout that draws from a generator of its own, so that no other stream moves."""

    def __init__(self, rate: float, source: DropoutSource) -> None:
        super().__init__()
        self.rate, self.source = rate, source

    def forward(self, x: Tensor) -> Tensor:
        noise = self.source.draw(x) if self.rate else None
        return x if noise is None else x * (noise >= self.rate) / (1 - self.rate)


class DropoutSource:
    """Where the dropout layers of one model find this pass's noise; without any this is an evaluation."""

    generator: torch.Generator | None = None
    drawn: Iterator[Tensor] | None = None
    """Noise that was drawn before the pass, a tensor for each dropout layer in execution order."""

    def draw(self, x: Tensor) -> Tensor | None:
        """Uniform numbers in [0, 1) for the next dropout layer, of the shape of ``x``; None drops nothing."""
        if self.drawn is not None:
            return next(self.drawn)
        if self.generator is None:
            return None
        return torch.rand(x.shape, generator=self.generator, device=self.generator.device).to(x.device)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: ModelConfig, linear: MakeLinear, drops: DropoutSource) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = linear(config.n_embd, config.n_embd)
        self.drop = Dropout(config.dropout, drops)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, heads, T, C / heads)
        return self.drop(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, config: ModelConfig, linear: MakeLinear, drops: DropoutSource) -> None:
        super().__init__()
        self.c_fc = linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = linear(4 * config.n_embd, config.n_embd)
        self.drop = Dropout(config.dropout, drops)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.c_proj(F.gelu(self.c_fc(x))))


class Block(nn.Module):
    """LayerNorm, attention, LayerNorm, MLP, each half on a residual."""

    def __init__(self, config: ModelConfig, linear: MakeLinear, drops: DropoutSource) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd)
        self.attn = Attention(config, linear, drops)
        self.ln_2 = LayerNorm(config.n_embd)
        self.mlp = MLP(config, linear, drops)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Tokens (B, T) in, logits (B, T, V) out. The head's weight is the token embedding's."""

    def __init__(self, config: ModelConfig, vocab_size: int, linear: MakeLinear = plain_linear) -> None:
        super().__init__()
        self.config = config
        self.dropout_source = DropoutSource()
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = Dropout(config.dropout, self.dropout_source)
        self.blocks = nn.ModuleList(Block(config, linear, self.dropout_source) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd)
        self.lm_head = linear(config.n_embd, vocab_size)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def cross_entropy(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Next-token loss in nats: logits (B, T, V), targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


@torch.no_grad()
def initialize(model: GPT, generator: torch.Generator) -> None:
    """nanoGPT's initialisation: N(0, 0.02), residual projections narrowed by sqrt(2 n_layer).

    ``generator`` is on the CPU: the initial bits do not depend on the device.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue  # LayerNorm gains start at 1
        std = 0.02 / math.sqrt(2 * model.config.n_layer) if name.endswith("c_proj.weight") else 0.02
        parameter.copy_(torch.normal(0.0, std, parameter.shape, generator=generator))
