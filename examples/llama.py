"""A Llama-like model in plain torch (RMSNorm, rotary positions, SwiGLU) that learns to repeat what it read.

    altgrad train subject=examples/llama.py:subject fp8_format=E3M4 precision.regime=uniform

Its linear layers are rounded: q, k, v, o, gate, up, down, and the head in BF16. Embedding, norms and the
attention's own products stay in float32.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli import Batch, Subject

SYMBOLS, WIDTH, HEADS, BLOCKS = 32, 64, 4, 2
Linear = partial(nn.Linear, bias=False)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions: pairs of the last dimension of ``x``, (..., time, size), turned by ``angles``."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), dim=-1)


class Block(nn.Module):
    """Attention and SwiGLU, each behind an RMSNorm and on a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q, self.k, self.v, self.o = (Linear(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.up = Linear(WIDTH, 3 * WIDTH), Linear(WIDTH, 3 * WIDTH)
        self.down = Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        h = self.norm_1(x)
        q, k, v = (part(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        h = self.norm_2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """Tokens (batch, time) in, logits (batch, time, SYMBOLS) out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm, self.head = nn.RMSNorm(WIDTH), Linear(WIDTH, SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        size = WIDTH // HEADS // 2
        angles = torch.outer(torch.arange(tokens.shape[1]), 10_000 ** -(torch.arange(size) / size))
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, angles.to(x.device))
        return self.head(self.norm(x))


def repeats(count: int, length: int, generator: torch.Generator) -> Batch:
    """Random symbols, and then the same once more: the second half can be known."""
    half = torch.randint(SYMBOLS, (count, length // 2 + 1), generator=generator)
    tokens = torch.cat((half, half), dim=1)[:, : length + 1]
    return Batch(x=tokens[:, :-1].contiguous(), y=tokens[:, 1:].contiguous())


def loss(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """In nats per symbol."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def subject(config) -> Subject:
    """torch's own initial weights; the head keeps a float32 master, and BF16 operands unless asked."""
    draw = partial(repeats, config.batch_size, config.model.block_size)
    return Subject(lambda _: Llama(), loss, draw, draw, lambda name: "head" if name == "head" else "hidden")
