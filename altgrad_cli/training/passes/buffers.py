"""What a model remembers beside its parameters, such as a BatchNorm's running statistics.

Parameters change in an update; buffers change in a forward pass. So a pass hands over the values it leaves,
and the model keeps those from before it, until the step is committed: a step that is measured, traced or
repeated meets the buffers that it met the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from altgrad_cli.errors import CheckpointError


def buffer_values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every buffer, by name."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def put_buffers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give the buffers of ``model`` these values: in place where shape and type are still theirs."""
    for name, value in values.items():
        place, _, own = name.rpartition(".")
        module = model.get_submodule(place)
        buffer = getattr(module, own)
        if buffer is not None and (buffer.shape, buffer.dtype) == (value.shape, value.dtype):
            buffer.detach().copy_(value)
        else:  # a forward pass put another in its place
            setattr(module, own, value.clone())


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """After the block every buffer is what it was before it."""
    before = buffer_values(model)
    try:
        yield
    finally:
        put_buffers(model, before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block ``model`` is in evaluation mode, and what that leaves in its buffers is taken back."""
    training = [module for module in model.modules() if module.training]
    with kept_buffers(model):
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a checkpoint holds: those that torch calls persistent; the others are built again."""
    kept = model.state_dict().keys()
    return {name: buffer.detach() for name, buffer in model.named_buffers() if name in kept}


def restore_buffers(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put back what ``saved_buffers`` gave.

    Raises:
        CheckpointError: the model has other buffers.
    """
    own = saved_buffers(model)
    if own.keys() != saved.keys():
        missing = ", ".join(sorted(own.keys() ^ saved.keys())[:5])
        raise CheckpointError(f"the checkpoint is of another network: its buffers are others ({missing})")
    for name, value in saved.items():
        if (own[name].shape, own[name].dtype) != (value.shape, value.dtype):
            raise CheckpointError(f"the checkpoint is of another network: {name} has another shape")
    put_buffers(model, saved)
