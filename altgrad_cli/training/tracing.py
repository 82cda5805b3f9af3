"""A step run once more with every tensor looked at: what was not finite, where first, and a hash of each.

The traced step is ``compute_step`` itself, seen through module hooks, gradient hooks and the rounding tap; so
its trace is the trace of the step it repeats. Records stand in execution order:

    state      what goes in: batch, random streams, parameters, the rule's slots, amax histories
    forward    each operand (before and after its rounding), each module's output, the loss
    backward   each module's output gradient, each rounded gradient operand, each weight gradient
    optimizer  the slots and parameters that the update would write

Of a run on several ranks it is the step as one process takes it, with the whole batch: so any machine can
replay it. Its sums over the rows can differ from those of the ranks in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.checkpoints.payload import Phase, TraceRecord
from altgrad_cli.config.precision import OPERAND_ROLES, Role
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.linear import Scales, for_weight_gradient, operand_grids
from altgrad_cli.training.faults import Faults
from altgrad_cli.training.in_use.calls import output_tensors
from altgrad_cli.training.parallel.ranks import ALONE
from altgrad_cli.training.state import TrainState, fingerprint
from altgrad_cli.training.step import Step, compute_step
from altgrad_cli.training.streams import fork
from altgrad_cli.training.update import CandidateUpdate, candidate_update

STEP_STREAMS = ("dropout", "rounding_operands", "rounding_update")
"""The random streams that a step itself draws from, once it has its batch."""
_SHARED = ("x", "activations", "gradients", "output", "output_gradient")
"""Roles of tensors of which every rank has its rows."""


@dataclass(frozen=True, slots=True)
class StepTrace:
    """The records of one step, and the step."""

    records: tuple[TraceRecord, ...]
    step: Step


def record_of(
    tensor: Tensor, *, phase: Phase, module: str, role: str, part: str = "", ranks: int = 1, **more: Any
) -> TraceRecord:
    """The record of one tensor; where so many ranks share its rows it says who had the first bad one."""
    x = tensor.detach()
    finite = torch.isfinite(x)
    bad = int(x.numel() - finite.sum())
    index = value = None
    if bad:
        index = int((~finite).flatten().nonzero()[0])
        value = float(x.flatten()[index])
        if ranks > 1 and role in _SHARED:
            more["rank"] = index // (x.numel() // ranks)
        x = torch.where(finite, x, 0.0)
    count = max(tensor.numel() - bad, 1)
    return TraceRecord(
        phase=phase,
        module=module,
        role=role,
        part=part,
        amax=float(x.abs().max()) if x.numel() else 0.0,
        mean=float(x.sum(dtype=torch.float64)) / count,
        nonfinite=bad,
        hash=fingerprint(tensor),
        index=index,
        value=value,
        **more,
    )


class _Observer:
    """Collects records from the hooks and the tap of one pass."""

    def __init__(self, state: TrainState, scales: Scales, ranks: int) -> None:
        self.records: list[TraceRecord] = []
        self._state, self._layers, self._scales, self._ranks = state, state.plan.layers, scales, ranks
        # Stochastic operands are rounded here a second time, in step with the pass and from the same stream.
        stochastic = state.plan.stochastic_operands
        self._generator = fork(state.streams["rounding_operands"]) if stochastic else None

    def see(self, tensor: Tensor, **where: Any) -> None:
        self.records.append(record_of(tensor, ranks=self._ranks, **where))

    def operand(self, layer: int, role: Role, x: Tensor) -> None:
        where: dict[str, Any] = {
            "phase": "backward" if role == "gradients" else "forward",
            "module": self._layers[layer].name,
            "role": role,
            "ranks": self._ranks,
        }
        given = record_of(x, **where, part="input")
        self.records.append(given)
        config, number = self._state.config.precision, OPERAND_ROLES.index(role)
        grid = operand_grids(self._layers[layer], config.scaling)[number]
        if grid is None:
            return
        scales = self._scales.get((layer, number))
        if scales is None:
            scales = grid.scales(x)
        # Both, as the step rounds it, which draws for both.
        rounded, _ = grid.round_for_both(
            x,
            scales,
            for_weight_gradient(self._state.plan, number, x),
            rounding="stochastic" if role in self._state.plan.stochastic else "nearest",
            overflow=config.overflow if grid.element.has_specials else "saturate",
            generator=self._generator,
        )
        record = record_of(rounded, **where, part="rounded", format=grid.element.name)
        if record.index is not None:
            record = replace(record, before=float(x.detach().flatten()[record.index]))
        self.records.append(replace(record, scale=grid.scale_at(scales, x.shape, record.index)))


def trace_step(
    state: TrainState,
    batch: Batch,
    *,
    learning_rate: float | None = None,
    scales: Scales | None = None,
    faults: Faults | None = None,
) -> StepTrace:
    """``compute_step`` with a record of every tensor; its arguments mean the same."""
    scales = scales if scales is not None else state.scales.current(state.plan, state.config)
    ranks, state = state.ranks.count, replace(state, ranks=ALONE)
    observer = _Observer(state, scales, ranks)
    _see_inputs(observer, state, batch)

    def look(layer: int, role: Role, x: Tensor) -> Tensor:
        observer.operand(layer, role, x)
        return x

    handles: list[Any] = []
    for name, module in state.model.named_modules():
        if name and not isinstance(module, torch.nn.ModuleList):
            handles.append(module.register_forward_hook(_output_hook(observer, name)))
    trained = set(state.flat.names)
    for name, parameter in state.model.named_parameters():
        if name not in trained:
            continue
        handles.append(parameter.register_hook(_gradient_hook(observer, _module_of(name))))
    try:
        step = compute_step(
            state, batch, learning_rate=learning_rate, scales=scales, faults=faults, look=look
        )
    finally:
        for handle in handles:
            handle.remove()
    _place_loss(observer, step.result.loss)
    # What a pass that is not finite would have written is never computed in training; a trace shows it.
    update = step.update or candidate_update(state, step.result.gradient, step.learning_rate)
    _see_update(observer, state, update)
    return StepTrace(tuple(observer.records), step)


def _module_of(parameter: str) -> str:
    return parameter.removesuffix(".weight")


def _output_hook(observer: _Observer, name: str) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: object) -> None:
        for tensor in output_tensors(output):
            observer.see(tensor, phase="forward", module=name, role="output")
            if tensor.requires_grad:
                tensor.register_hook(
                    lambda grad: observer.see(grad, phase="backward", module=name, role="output_gradient")
                )

    return hook


def _gradient_hook(observer: _Observer, module: str) -> Callable[[Tensor], None]:
    return lambda grad: observer.see(grad, phase="backward", module=module, role="weight_gradient")


def _place_loss(observer: _Observer, loss: Tensor) -> None:
    """The loss lies between the last forward record and the first backward one."""
    records = observer.records
    at = next((n for n, record in enumerate(records) if record.phase == "backward"), len(records))
    records.insert(at, record_of(loss.reshape(1), phase="forward", module="loss", role="loss"))


def _see_inputs(observer: _Observer, state: TrainState, batch: Batch) -> None:
    flat = state.flat
    for role, given in batch.named_tensors():
        observer.see(given, phase="state", module="batch", role=role)
    for name, buffer in state.model.named_buffers():
        observer.see(buffer, phase="state", module=name, role="buffer")
    positions = state.streams.state_dict()
    for purpose in STEP_STREAMS:
        observer.see(positions[purpose], phase="state", module="streams", role=purpose)
    for role, part, buffer in (
        ("stored_weights", "", flat.values),
        *(("optimizer_state", name, slot) for name, slot in state.optimizer.slots.items()),
    ):
        for name, view in zip(flat.names, flat.views(buffer), strict=True):
            observer.see(view, phase="state", module=_module_of(name), role=role, part=part)
    for layer, histories in zip(state.plan.layers, state.scales.histories, strict=True):
        for role, history in zip(OPERAND_ROLES, histories, strict=True):
            if history is not None:
                values = torch.tensor(history.values, dtype=torch.float32)
                observer.see(values, phase="state", module=layer.name, role="amax_history", part=role)


def _see_update(observer: _Observer, state: TrainState, update: CandidateUpdate) -> None:
    flat = state.flat
    for role, part, buffer in (
        *(("optimizer_state", name, slot) for name, slot in update.proposal.slots.items()),
        ("stored_weights", "", update.unrounded),
    ):
        start = flat.linear_end if state.plan.frozen_blocks and part else 0
        for name, view, begin in zip(flat.names, flat.views(buffer), flat.bounds, strict=False):
            if begin >= start:  # the frozen control's block moments are never computed
                observer.see(view, phase="optimizer", module=_module_of(name), role=role, part=part)
