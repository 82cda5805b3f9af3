"""A subject with the weights of others: their names fitted to the model's, or what does not fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from altgrad_cli.errors import CheckpointError, nearest
from altgrad_cli.subjects.subject import Subject

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put into the names of what they wrap."""
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Fitted:
    """Tensors by the model's own names."""

    tensors: Mapping[str, Tensor]
    prefix: str
    """What stood before each name: ``module.`` of DDP, ``model.`` of Lightning."""
    unused: tuple[str, ...]
    """Names of the file that the model does not have."""


def fit_names(model: nn.Module, given: Mapping[str, Tensor], where: str) -> Fitted:
    """The tensors of a file under the names of ``model``; a tied weight may be there under one of its names.

    Raises:
        CheckpointError: a tensor of the model is missing, or has another shape.
    """
    own = model.state_dict(keep_vars=True)
    cleaned = {_WRAPPERS.sub("", name): tensor for name, tensor in given.items()}
    endings = Counter(
        name[: -len(key)]
        for name in cleaned
        for key in (name.split(".", cut)[-1] for cut in range(name.count(".") + 1))
        if key in own
    )
    prefix = max(endings, key=lambda each: (endings[each], -len(each)), default="")
    named = {name[len(prefix) :]: tensor for name, tensor in cleaned.items() if name.startswith(prefix)}
    found = {name: tensor for name, tensor in named.items() if name in own}
    there = {id(own[name]) for name in found}
    missing = [name for name, tensor in own.items() if name not in found and id(tensor) not in there]
    unused = tuple(name for name in cleaned if name.removeprefix(prefix) not in found)
    if missing:
        near = [(name, nearest(name, unused)) for name in missing[:_SHOWN]]
        words = ", ".join(f"{name} (nearest: {other})" if other else name for name, other in near)
        raise CheckpointError(
            f"the file lacks {len(missing)} of the model's {len(own)} tensors: {words}",
            where=where,
            allowed=f"the model's own names, after a common prefix; the file also has: {_few(unused)}",
            hint="build the model in the subject as it was built when the file was written",
        )
    other = [
        f"{name} is {tuple(tensor.shape)} and not {tuple(own[name].shape)}"
        for name, tensor in found.items()
        if tensor.shape != own[name].shape
    ]
    if other:
        raise CheckpointError(
            f"{len(other)} tensors of the file have another shape: {'; '.join(other[:_SHOWN])}",
            where=where,
            hint="give the subject the sizes that the file was written with",
        )
    return Fitted(found, prefix, unused)


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "nothing else"


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    subject: Subject
    fitted: Fitted

    def __call__(self, generator: torch.Generator) -> nn.Module:
        model = self.subject.build(generator)
        with torch.no_grad():
            for name, value in model.state_dict(keep_vars=True).items():
                if name in self.fitted.tensors:
                    value.detach().copy_(self.fitted.tensors[name])
        return model


def with_weights(subject: Subject, given: Mapping[str, Tensor], where: str) -> tuple[Subject, Fitted]:
    """``subject`` building its model with these weights instead of initial ones.

    Raises:
        CheckpointError: as ``fit_names``.
    """
    with torch.random.fork_rng(devices=[]):
        fitted = fit_names(subject.build(torch.Generator().manual_seed(1)), given, where)
    return replace(subject, build=_Loaded(subject, fitted)), fitted
