"""A stranger's subject tried out: what the engine relies on, asked of one batch before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from altgrad_cli.errors import UsageError
from altgrad_cli.subjects.subject import Batch, Draw, Subject
from altgrad_cli.surgery.linear import PassSlot
from altgrad_cli.surgery.precision_plan import LayerKind
from altgrad_cli.surgery.swapping import prepare_layers


def try_out(subject: Subject) -> None:
    """See that ``subject`` can be trained, and that a step of it can be repeated.

    Costs two builds of the model, two forward passes and a backward pass. What the user's code raises
    passes through.

    Raises:
        UsageError: what of it does not do, and what would.
    """
    for part in ("build", "kind", "loss"):
        _see_hash(part, getattr(subject, part))
    model = _built(subject)
    _see_equal(model, _built(subject))
    layers = prepare_layers(model, PassSlot(), subject.kind)
    if not layers:
        raise UsageError(
            "the model has no layer that altgrad rounds, so nothing of it would be rounded",
            allowed="a model with an nn.Linear, nn.Conv1d, nn.Conv2d, or Transformers' Conv1D",
        )
    unknown = {subject.kind(name) for name, _ in layers} - set(get_args(LayerKind))
    if unknown:
        raise UsageError(
            f"the subject's kind calls a layer {unknown.pop()!r}", allowed=", ".join(get_args(LayerKind))
        )
    _see_parameters(model)
    batch = _drawn("train", subject.train)
    _drawn("validation", subject.validation)
    _see_step(subject, model, batch)


def try_build(subject: Subject) -> None:
    """See that ``subject`` builds a model: all that is asked of one that an observed loop has trained.

    Its steps are recorded call by call, random numbers included; it may have frozen and unused parameters.

    Raises:
        UsageError: it builds none.
    """
    _built(subject)


def _see_hash(part: str, value: object) -> None:
    try:
        hash(value)
    except TypeError:
        raise UsageError(
            f"the subject's {part} cannot be hashed: it is a {type(value).__name__}",
            hint="a function will do, or a dataclass with frozen=True and a __call__",
        ) from None


def _built(subject: Subject) -> nn.Module:
    torch.default_generator.manual_seed(1)
    model = subject.build(torch.Generator().manual_seed(1))
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the subject's build returned a {type(model).__name__}", allowed="a torch.nn.Module"
        )
    return model


def _see_equal(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    different = [name for name in {**first, **second} if not _same(first.get(name), second.get(name))]
    if different:
        raise UsageError(
            f"the subject's build gives other weights each time it is called ({different[0]})",
            hint="draw them from the generator that build is given, or from torch's default stream",
        )
    if {id(each) for each in one.parameters()} & {id(each) for each in other.parameters()}:
        raise UsageError(
            "the subject's build gives the same model again, and not a new one",
            hint="make the model inside build",
        )


def _see_parameters(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise UsageError(
                f"the parameter {name} is {parameter.dtype}",
                allowed="float32: what is rounded is rounded from it",
            )
        if not parameter.requires_grad:
            raise UsageError(
                f"the parameter {name} is frozen (requires_grad=False)",
                hint="keep what is not trained as a buffer: register_buffer",
            )


def _drawn(split: str, draw: Draw | None) -> Batch:
    if draw is None:
        raise UsageError(f"the subject has no {split} batches")
    batch, again = (draw(torch.Generator().manual_seed(1)) for _ in range(2))
    if not (isinstance(batch, Batch) and isinstance(batch.x, Tensor) and isinstance(batch.y, Tensor)):
        raise UsageError(
            f"the subject's {split} drew a {type(batch).__name__}",
            allowed="an altgrad_cli.Batch of two tensors",
        )
    if not (batch.x.dim() and batch.y.dim() and len(batch.x) == len(batch.y)):
        raise UsageError(f"x and y of a {split} batch are not of one length", allowed="(batch, ...) each")
    if not (_same(batch.x, again.x) and _same(batch.y, again.y)):
        raise UsageError(
            f"the subject's {split} draws another batch from the same generator",
            hint="draw from the generator that it is given, and from nothing else",
        )
    return batch


def _see_step(subject: Subject, model: nn.Module, batch: Batch) -> None:
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    stream = torch.get_rng_state()
    output = model(batch.x)
    loss = subject.loss(output, batch.y)
    if not torch.equal(stream, torch.get_rng_state()):
        raise UsageError(
            "the model draws random numbers in its forward pass, so that a step could not be repeated",
            hint="use nn.Dropout, whose noise the pass brings, and no dropout inside attention",
        )
    if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.requires_grad):
        raise UsageError("the subject's loss is no 0-d tensor that depends on the weights", allowed="a mean")
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            raise UsageError(
                f"the loss does not depend on the parameter {name}",
                hint="leave it out of the model, or keep it as a buffer",
            )
    with torch.no_grad():
        _put_back(model, buffers)
        again = subject.loss(model(batch.x), batch.y)
        each = subject.loss(output, batch.y, reduction="none")
    if not _same(loss.detach(), again):
        raise UsageError(
            "the model gives another loss for the same batch and weights: it remembers something",
            hint="keep what it remembers as a buffer (register_buffer), which a checkpoint holds",
        )
    if each.numel() == 0 or each.numel() % len(batch.y):
        raise UsageError(
            'the subject\'s loss with reduction="none" has no number a target',
            allowed="one a target, batch first",
        )


def _put_back(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Equal in shape, type and value, NaN in the same places."""
    if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True))
