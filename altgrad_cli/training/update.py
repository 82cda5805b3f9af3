"""The optimizer's update: computed, rounded where the weights are stored on a grid, checked, then committed.

Nothing here changes the parameters or the rule's state before ``commit``; an update that is not finite is
simply never committed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.metrics.update import rescale_flip_rate
from altgrad_cli.rounding.grid import Grid, operand_grid
from altgrad_cli.rounding.statistics import STATS
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.streams import fork
from altgrad_cli.updates.flat import largest_magnitude
from altgrad_cli.updates.rule import Proposal


@dataclass(frozen=True, slots=True)
class Rescale:
    """The stored weights of one layer move to other power-of-two scales."""

    layer: int
    before: Tensor
    after: Tensor
    amax: float


@dataclass(frozen=True, slots=True)
class CandidateUpdate:
    """An update that has not happened yet.

    Its tensors are its own, made when the activations of the pass are gone: kept with the state, they would
    add four buffers of the parameters' size to the peak of memory.
    """

    learning_rate: float
    proposal: Proposal
    """What the rule proposed: w + dw of all parameters, and its own state there."""
    amax: list[float]
    """max |w + dw| of each block linear layer, then of all other parameters; NaN or inf where not finite."""
    finite: bool
    rounded: Tensor | None
    """w + dw of the block linear layers, rounded at the pre-step scale where they are stored on a grid; flat,
    ``values[:linear_end]`` long. None without stored weights."""
    stored: list[Tensor] | None
    """``rounded`` layer by layer (views)."""
    stored_stats: Tensor | None
    """(block linear layers, len(STATS)) of that rounding; NaN rows where a layer keeps a float32 master. None
    with the monitors off."""
    rescales: list[Rescale]
    rounding_stream: torch.Generator | None

    @property
    def unrounded(self) -> Tensor:
        """w + dw of all parameters; flat, aligned with ``FlatParameters.values``."""
        return self.proposal.parameters


@torch.no_grad()
def candidate_update(state: TrainState, gradient: Tensor, learning_rate: float) -> CandidateUpdate:
    """The update that ``gradient`` (flat) leads to, beside the state."""
    start = state.flat.linear_end if state.plan.frozen_blocks else 0
    rule = state.optimizer
    proposal = rule.propose(gradient, learning_rate, state.placed_on, start)
    unrounded = proposal.parameters
    stochastic = rule.stochastic or "stored_weights" in state.plan.stochastic
    generator = fork(state.streams["rounding_update"]) if stochastic else None
    _round_slots(state, proposal, generator)
    flat = state.flat
    linear = flat.linear_views(unrounded)
    rest = unrounded[flat.linear_end :]
    amax: list[float] = torch.stack([largest_magnitude(part) for part in (*linear, rest)]).tolist()
    finite = all(math.isfinite(value) for value in amax)
    if not (finite and state.plan.stores_weights):
        return CandidateUpdate(learning_rate, proposal, amax, finite, None, None, None, [], generator)
    stats = None
    if state.config.monitors.enabled:
        stats = torch.full((len(linear), len(STATS)), torch.nan, dtype=torch.float64, device=state.device)
    stored, rescales = [], []
    rounded = torch.empty_like(unrounded[: flat.linear_end])
    for index, (view, target) in enumerate(zip(linear, flat.linear_views(rounded), strict=True)):
        grid, scales = state.stored_grid(index), state.stored_scales[index]
        if grid is None or scales is None:
            target.copy_(view)
        else:
            row = None if stats is None else stats[index]
            _round_stored(view, grid, scales, generator, target, row)
            after = grid.stored_scales(view, scales, amax[index])
            if after is not scales:
                rescales.append(Rescale(index, scales, after, amax[index]))
        stored.append(target)
    return CandidateUpdate(learning_rate, proposal, amax, finite, rounded, stored, stats, rescales, generator)


def _round_slots(state: TrainState, proposal: Proposal, generator: torch.Generator | None) -> None:
    """Put the rule's own state for the layers with role O onto their grid, each slot at its own amax."""
    for index, layer in enumerate(state.plan.layers):
        fmt = layer.format_of("optimizer_state")
        if fmt is None:
            continue
        grid = operand_grid(fmt, "amax")
        for slot in proposal.slots.values():
            view = state.flat.linear_views(slot)[index]
            stochastic = "optimizer_state" in state.plan.stochastic
            grid.round(
                view,
                grid.scales(view),
                rounding="stochastic" if stochastic else "nearest",
                generator=generator if stochastic else None,
                out=view,
            )


def _round_stored(
    unrounded: Tensor,
    grid: Grid,
    scales: Tensor,
    generator: torch.Generator | None,
    out: Tensor,
    stats: Tensor | None = None,
) -> None:
    grid.round(
        unrounded,
        scales,
        rounding="nearest" if generator is None else "stochastic",
        generator=generator,
        out=out,
        stats=stats,
    )


@torch.no_grad()
def re_encode(state: TrainState, update: CandidateUpdate) -> dict[int, float]:
    """Round the layers with a new scale again, from the unrounded candidate, onto the new grid.

    Returns the share of weights whose value that changed, by layer.
    """
    flips: dict[int, float] = {}
    unrounded = state.flat.linear_views(update.unrounded)
    for rescale in update.rescales:
        grid = state.stored_grid(rescale.layer)
        assert grid is not None
        assert update.stored is not None
        target = update.stored[rescale.layer]
        before = target.clone()
        _round_stored(unrounded[rescale.layer], grid, rescale.after, update.rounding_stream, target)
        flips[rescale.layer] = float(rescale_flip_rate(before, target))
    return flips


@torch.no_grad()
def commit(state: TrainState, update: CandidateUpdate) -> None:
    """Make the update happen: weights, the rule's state, stored scales and the rounding stream."""
    flat = state.flat
    start = 0
    if update.rounded is not None:
        start = flat.linear_end
        flat.values[:start].copy_(update.rounded)
    flat.values[start:].copy_(update.unrounded[start:])
    state.optimizer.commit(update.proposal, flat.values)
    for rescale in update.rescales:
        state.stored_scales[rescale.layer] = rescale.after
    state.streams.adopt("rounding_update", update.rounding_stream)
