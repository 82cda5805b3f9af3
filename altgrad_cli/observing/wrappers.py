"""What stands round a model or an optimizer: compiled, DDP-wrapped, sharded, handed on by a trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from altgrad_cli.errors import UsageError
from altgrad_cli.training.parallel.ranks import ALONE, Ranks


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, inside ``torch.compile`` and DistributedDataParallel.

    Raises:
        UsageError: its parameters are shards.
    """
    inner = model
    while True:
        if hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod  # type: ignore[assignment]
        elif isinstance(inner, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = inner.module
        else:
            break
    names = {type(part).__name__ for part in inner.modules()}
    if "FullyShardedDataParallel" in names or any(
        "DTensor" in type(each).__name__ for each in inner.parameters()
    ):
        raise UsageError(
            "the model is sharded (FSDP), and a shard of a tensor has no scale of its own",
            where="observe",
            allowed="a model as it is, compiled by torch.compile, or wrapped by DistributedDataParallel",
            hint="observe one replica, or wrap the model by DistributedDataParallel",
        )
    return inner


def ranks_of(model: nn.Module) -> Ranks:
    """The processes among which DistributedDataParallel shares the batches of ``model``.

    Raises:
        UsageError: they are not all there are, or it is DataParallel's threads that share them.
    """
    layers = [model]
    for name in ("_orig_mod", "module", "_orig_mod"):
        if isinstance(inner := getattr(layers[-1], name, None), nn.Module):
            layers.append(inner)
    if any(isinstance(each, nn.DataParallel) and len(each.device_ids) > 1 for each in layers):
        raise UsageError(
            "DataParallel calls copies of the model, in threads",
            where="observe",
            allowed="DistributedDataParallel, or one device",
        )
    shared = next((each for each in layers if isinstance(each, nn.parallel.DistributedDataParallel)), None)
    if shared is None:
        return ALONE
    if shared.process_group.size() != dist.get_world_size():
        raise UsageError(
            "the model is shared by a group of processes that are not all there are",
            where="observe",
            allowed="DistributedDataParallel over the default group",
        )
    return Ranks(dist.get_rank(), dist.get_world_size())


def unwrapped_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself, inside what Accelerate and Lightning put round it: its own hooks see its steps.

    Raises:
        UsageError: it does not step once, on dense gradients.
    """
    inner = optimizer
    while type(inner).__name__ in ("AcceleratedOptimizer", "LightningOptimizer"):
        inner = inner.optimizer  # type: ignore[attr-defined]
    if type(inner).__name__ in ("LBFGS", "SparseAdam"):
        raise UsageError(
            f"{type(inner).__name__} takes several passes a step, or gradients that are not dense",
            where="observe",
            allowed="an optimizer that steps once on dense gradients",
        )
    return inner


def run_eagerly(model: nn.Module) -> Callable[[], None]:
    """Let what ``torch.compile`` made of ``model`` and of its parts run eagerly; returns what undoes it."""
    kept: list[tuple[nn.Module, object]] = []
    for part in model.modules():
        original = getattr(part, "_orig_mod", None)
        if isinstance(original, nn.Module):
            kept.append((part, part.forward))
            part.forward = original.__call__
    in_place = [part for part in model.modules() if part._compiled_call_impl is not None]
    compiled = [part._compiled_call_impl for part in in_place]
    for part in in_place:
        part._compiled_call_impl = None
    if kept or in_place:
        warnings.warn("the compiled model runs eagerly while altgrad observes it", stacklevel=4)

    def undo() -> None:
        for part, forward in kept:
            part.forward = forward  # type: ignore[method-assign, assignment]
        for part, call in zip(in_place, compiled, strict=True):
            part._compiled_call_impl = call

    return undo
