"""A small convolutional network with BatchNorm on generated pictures: where is the bar, and how does it lie?

    altgrad train subject=examples/cnn.py:subject fp8_format=E3M4 precision.regime=standard

Both convolutions and the two linear layers of the classifier are rounded, the last in BF16; the BatchNorms
stay in float32. BatchNorm's running statistics are buffers: they are saved with the weights, and measuring
does not touch them.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from altgrad_cli import Batch, Subject

SIZE = 16
"""Pixels a side."""
KINDS = 4
"""A row or a column that is brighter, in one half of the picture or in the other."""


def pictures(count: int, generator: torch.Generator) -> Batch:
    """``count`` noisy pictures (count, 1, SIZE, SIZE), each with one bar, and which kind of bar it is."""
    kinds = torch.randint(KINDS, (count,), generator=generator)
    places = torch.randint(SIZE // 2, (count,), generator=generator) + kinds % 2 * (SIZE // 2)
    x = torch.randn(count, 1, SIZE, SIZE, generator=generator)
    for picture, kind, place in zip(x[:, 0], kinds.tolist(), places.tolist(), strict=True):
        (picture if kind < 2 else picture.T)[place] += 2
    return Batch(x=x, y=kinds)


class Network(nn.Module):
    """Two convolutions, each with a BatchNorm, and a classifier of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.hidden = nn.Linear(16 * (SIZE // 4) ** 2, 32)
        self.drop = nn.Dropout(0.1)
        self.answer = nn.Linear(32, KINDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(self.drop(F.relu(self.hidden(self.features(x).flatten(1)))))


def build(generator: torch.Generator) -> Network:
    """torch's own initial weights: its default stream, too, is seeded for each run."""
    return Network()


def kind(name: str) -> str:
    """A head keeps a float32 master, and BF16 operands unless asked."""
    return "head" if name == "answer" else "hidden"


def subject(config) -> Subject:
    """What ``subject=examples/cnn.py:subject`` trains: every batch is drawn anew."""
    draw = partial(pictures, config.batch_size)
    return Subject(build=build, loss=F.cross_entropy, train=draw, validation=draw, kind=kind)
