"""The optimizer's update: computed, rounded where the weights are stored on a grid, checked, then committed.

Nothing here changes the parameters or the moments before ``commit``; an update that is not finite is simply
never committed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.metrics.update import rescale_flip_rate
from altgrad_cli.rounding.quantize import STATS, round_to_grid
from altgrad_cli.rounding.scaling import current_scale, stored_weight_scale
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.streams import fork
from altgrad_cli.updates.adamw import AdamState, adamw_candidate
from altgrad_cli.updates.flat import largest_magnitude


@dataclass(frozen=True, slots=True)
class Rescale:
    """The stored weights of one layer move to another power-of-two scale."""

    layer: int
    before: float
    after: float
    amax: float


@dataclass(frozen=True, slots=True)
class CandidateUpdate:
    """An update that has not happened yet.

    Its tensors are its own, made when the activations of the pass are gone: kept with the state, they would
    add four buffers of the parameters' size to the peak of memory.
    """

    learning_rate: float
    wide: Tensor
    """w + dw of all parameters, unrounded; flat, aligned with ``FlatParameters.values``."""
    adam: AdamState
    """The moments that belong to it, aligned likewise."""
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


@torch.no_grad()
def candidate_update(state: TrainState, gradient: Tensor, learning_rate: float) -> CandidateUpdate:
    """The update that ``gradient`` (flat) leads to, beside the state."""
    wide, adam = _adamw(state, gradient, learning_rate)
    generator = fork(state.streams["rounding_update"]) if state.plan.stochastic_update else None
    _round_moments(state, adam, generator)
    flat = state.flat
    linear = flat.linear_views(wide)
    rest = wide[flat.linear_end :]
    amax: list[float] = torch.stack([largest_magnitude(part) for part in (*linear, rest)]).tolist()
    finite = all(math.isfinite(value) for value in amax)
    if not (finite and state.plan.stores_weights):
        return CandidateUpdate(learning_rate, wide, adam, amax, finite, None, None, None, [], generator)
    stats = None
    if state.config.monitors.enabled:
        stats = torch.full((len(linear), len(STATS)), torch.nan, dtype=torch.float64, device=state.device)
    stored, rescales = [], []
    rounded = torch.empty_like(wide[: flat.linear_end])
    for index, (view, target) in enumerate(zip(linear, flat.linear_views(rounded), strict=True)):
        fmt, scale = state.stored_format(index), state.stored_scales[index]
        if fmt is None or scale is None:
            target.copy_(view)
        else:
            _round_stored(state, view, fmt, scale, generator, target, None if stats is None else stats[index])
            after = stored_weight_scale(amax[index], fmt, scale)
            if after != scale:
                rescales.append(Rescale(index, scale, after, amax[index]))
        stored.append(target)
    return CandidateUpdate(
        learning_rate, wide, adam, amax, finite, rounded, stored, stats, rescales, generator
    )


def _round_moments(state: TrainState, adam: AdamState, generator: torch.Generator | None) -> None:
    """Put the candidate's m and v of the layers with role O onto their grid, each at its own amax."""
    for index, layer in enumerate(state.plan.layers):
        fmt = layer.format_of("optimizer_state")
        if fmt is None:
            continue
        for moment in (adam.m, adam.v):
            view = state.flat.linear_views(moment)[index]
            stochastic = state.plan.stochastic_operands
            round_to_grid(
                view,
                fmt,
                current_scale(view, fmt),
                rounding="stochastic" if stochastic else "nearest",
                generator=generator if stochastic else None,
                out=view,
            )


def _round_stored(
    state: TrainState,
    wide: Tensor,
    fmt: FP8Format,
    scale: float,
    generator: torch.Generator | None,
    out: Tensor,
    stats: Tensor | None = None,
) -> None:
    round_to_grid(
        wide,
        fmt,
        scale,
        rounding="nearest" if generator is None else "stochastic",
        generator=generator,
        out=out,
        stats=stats,
        compiled=state.config.runtime.compile,
    )


def _adamw(state: TrainState, gradient: Tensor, learning_rate: float) -> tuple[Tensor, AdamState]:
    """(parameters, moments) after the optimizer's step; what is frozen is copied."""
    flat, optimizer = state.flat, state.config.optimizer
    before = (flat.values, state.adam.m, state.adam.v)
    wide, m, v = (torch.empty_like(tensor) for tensor in before)
    start = flat.linear_end if state.plan.frozen_blocks else 0
    for new, old in zip((wide, m, v), before, strict=True):
        new[:start].copy_(old[:start])
    for part, decay in (
        (slice(start, flat.matrix_end), optimizer.weight_decay),
        (slice(flat.matrix_end, flat.bounds[-1]), 0.0),
    ):
        adamw_candidate(
            flat.values[part],
            gradient[part],
            AdamState(state.adam.m[part], state.adam.v[part]),
            wide[part],
            AdamState(m[part], v[part]),
            step=state.adam_step + 1,
            learning_rate=learning_rate,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=decay,
        )
    return wide, AdamState(m, v)


@torch.no_grad()
def re_encode(state: TrainState, update: CandidateUpdate) -> dict[int, float]:
    """Round the layers with a new scale again, from the unrounded candidate, onto the new grid.

    Returns the share of weights whose value that changed, by layer.
    """
    flips: dict[int, float] = {}
    wide = state.flat.linear_views(update.wide)
    for rescale in update.rescales:
        fmt = state.stored_format(rescale.layer)
        assert fmt is not None
        assert update.stored is not None
        target = update.stored[rescale.layer]
        before = target.clone()
        _round_stored(state, wide[rescale.layer], fmt, rescale.after, update.rounding_stream, target)
        flips[rescale.layer] = float(rescale_flip_rate(before, target))
    return flips


@torch.no_grad()
def commit(state: TrainState, update: CandidateUpdate) -> None:
    """Make the update happen: weights, moments, stored scales and the rounding stream."""
    flat = state.flat
    start = 0
    if update.rounded is not None:
        start = flat.linear_end
        flat.values[:start].copy_(update.rounded)
    flat.values[start:].copy_(update.wide[start:])
    state.adam = update.adam
    for rescale in update.rescales:
        state.stored_scales[rescale.layer] = rescale.after
    state.streams.adopt("rounding_update", update.rounding_stream)
    state.adam_step += 1
