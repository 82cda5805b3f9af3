"""What is trained: the seam through which training, forensics and reports know a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from altgrad_cli.subjects.corpus.tokens import Corpus
from altgrad_cli.surgery.precision_plan import LayerKind


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs, targets, and where in the data they lie, so that any batch can be drawn again."""

    x: Tensor
    """(batch, ...): what the model takes; of text (batch, block) int64 token ids."""
    y: Tensor
    """(batch, ...): of text int64, ``x`` one token later."""
    offsets: tuple[int, ...] = ()
    """Which row is which: of text the position of its first token in its split, else a document's number."""

    def loss(
        self, model: nn.Module, loss: LossFunction, device: torch.device, *, reduction: str = "mean"
    ) -> Tensor:
        """``loss`` of what ``model``, on ``device``, makes of the batch."""
        return loss(model(self.x.to(device)), self.y.to(device), reduction=reduction)

    def gradients(
        self,
        model: nn.Module,
        loss: LossFunction,
        device: torch.device,
        parameters: Sequence[Tensor],
        *,
        shares: int = 1,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss, 0-d, and its gradient for each of ``parameters``: a share of the mean."""
        value = self.loss(model, loss, device)
        if shares > 1:
            value = value / shares  # its gradients are as large as alone
        return value, torch.autograd.grad(value, parameters)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What of it a trace looks at."""
        yield "x", self.x
        yield "y", self.y


Draw = Callable[[torch.Generator], Batch]
"""The next batch of a split; it depends on the generator, which is on the CPU, and on nothing else."""


class LossFunction(Protocol):
    """``torch.nn.functional.cross_entropy``, ``mse_loss`` and their like."""

    def __call__(self, output: Tensor, target: Tensor, /, *, reduction: str = "mean") -> Tensor:
        """The mean over the batch, 0-d; with ``reduction="none"`` one number a target, the batch first."""


Scores = Callable[[Sequence[Batch], Sequence[Tensor]], Mapping[str, float]]
"""Metrics by name, of batches and the model's outputs for them."""


def every_layer_hidden(name: str) -> LayerKind:
    """No layer is a head, and none is fed by a normalisation."""
    return "hidden"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, its loss and its batches; nobody above this room knows more of them than this.

    ``surgery`` swaps the model's ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d``, the ``Conv1D`` of
    Transformers and ``nn.Dropout``: what is rounded is decided there, and a pass can be repeated with the
    same dropout. Whatever else draws random numbers in ``forward`` makes a step that cannot be repeated.
    What it remembers beside its parameters it keeps in buffers: a step commits them with the weights, and a
    checkpoint holds the persistent ones.
    """

    build: Callable[[torch.Generator], nn.Module]
    """The model with its initial weights, drawn from the generator (torch's default stream has its seed too).
    Builders are hashable, and equal ones build the same network."""
    loss: LossFunction
    train: Draw | None
    """None where the data is not at hand: a checkpoint can be looked at without it."""
    validation: Draw | None
    """The same."""
    kind: Callable[[str], LayerKind] = every_layer_hidden
    """What the layer of a name is, which decides how it is rounded."""
    corpus: Corpus | None = None
    """The text that the batches are tokens of; None where they are none, or it is not at hand."""
    scores: Scores | None = None
    """What an evaluation says beside the loss; None: of a corpus the perplexity, of a loss a token."""
