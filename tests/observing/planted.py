"""What the planted-fault tests observe, as a subject that a new process can build: a CNN and a GPT-2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli import Batch, Subject


class Convolutional(nn.Module):
    """Two convolutions, a BatchNorm, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.answer = nn.Conv2d(4, 4, 3, stride=2), nn.Linear(4 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(F.relu(self.second(F.relu(self.norm(self.first(x))))).flatten(1))


def build_cnn(generator: torch.Generator) -> nn.Module:
    return Convolutional()


def pictures(generator: torch.Generator) -> Batch:
    x = torch.randn(4, 1, 8, 8, generator=generator)
    return Batch(x=x, y=torch.randint(4, (4,), generator=generator))


def cnn(config: object) -> Subject:
    return Subject(build_cnn, F.cross_entropy, pictures, pictures)


def build_gpt2(generator: torch.Generator) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": 32}
    drops = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    config = GPT2Config(**sizes, **drops, use_cache=False, bos_token_id=None, eos_token_id=None)
    model: nn.Module = GPT2LMHeadModel(config).train()
    return model


def build_gpt2_that_drops(generator: torch.Generator) -> nn.Module:
    model = build_gpt2(generator)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.1
    return model


def tokens(generator: torch.Generator) -> Batch:
    drawn = torch.randint(32, (2, 9), generator=generator)
    return Batch(x=drawn[:, :-1].contiguous(), y=drawn[:, 1:].contiguous())


def next_token(output: object, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    logits: Tensor = output.logits  # type: ignore[attr-defined]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def gpt2(config: object) -> Subject:
    return Subject(build_gpt2, next_token, tokens, tokens)


def gpt2_that_drops(config: object) -> Subject:
    return Subject(build_gpt2_that_drops, next_token, tokens, tokens)
