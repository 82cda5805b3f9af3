"""The optimizer's update: computed, rounded where the weights are stored on a grid, checked, then committed.

Nothing here changes the parameters or the moments before ``commit``; an update that is not finite is simply
never committed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.diagnostics.update import rescale_flip_rate
from altgrad_cli.formats import FP8Format
from altgrad_cli.quantization.quantize import STATS, round_to_grid
from altgrad_cli.quantization.scaling import current_scale, stored_weight_scale
from altgrad_cli.training.adamw import AdamState, adamw_candidate
from altgrad_cli.training.flat import largest_magnitude
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.streams import fork


@dataclass(frozen=True, slots=True)
class Rescale:
    """The stored weights of one layer move to another power-of-two scale."""

    layer: int
    before: float
    after: float
    amax: float


@dataclass(frozen=True, slots=True)
class CandidateUpdate:
    """An update that has not happened yet. Its tensors are the state's buffers, valid until the next."""

    learning_rate: float
    amax: list[float]
    """max |w + dw| of each block linear layer, then of all other parameters; NaN or inf where not finite."""
    finite: bool
    stored: list[Tensor] | None
    """Per block linear layer, w + dw rounded at the pre-step scale; None without stored weights."""
    stored_stats: Tensor | None
    """(block linear layers, len(STATS)) of that rounding; NaN rows where a layer keeps a float32 master. None
    with the monitors off."""
    rescales: list[Rescale]
    rounding_stream: torch.Generator | None


@torch.no_grad()
def candidate_update(state: TrainState, gradient: Tensor, learning_rate: float) -> CandidateUpdate:
    """The update that ``gradient`` (flat) leads to, beside the state."""
    _adamw(state, gradient, learning_rate)
    generator = fork(state.streams["rounding_update"]) if state.plan.stochastic_update else None
    _round_moments(state, generator)
    flat = state.flat
    linear = flat.linear_views(state.candidate)
    rest = state.candidate[flat.linear_end :]
    amax: list[float] = torch.stack([largest_magnitude(part) for part in (*linear, rest)]).tolist()
    finite = all(math.isfinite(value) for value in amax)
    if not (finite and state.plan.stores_weights):
        return CandidateUpdate(learning_rate, amax, finite, None, None, [], generator)
    stats = None
    if state.config.monitors.enabled:
        stats = torch.full((len(linear), len(STATS)), torch.nan, dtype=torch.float64, device=state.device)
    stored, rescales = [], []
    targets = flat.linear_views(state.rounded)
    for index, (wide, target) in enumerate(zip(linear, targets, strict=True)):
        fmt, scale = state.stored_format(index), state.stored_scales[index]
        if fmt is None or scale is None:
            target.copy_(wide)
        else:
            _round_stored(state, wide, fmt, scale, generator, target, None if stats is None else stats[index])
            after = stored_weight_scale(amax[index], fmt, scale)
            if after != scale:
                rescales.append(Rescale(index, scale, after, amax[index]))
        stored.append(target)
    return CandidateUpdate(learning_rate, amax, finite, stored, stats, rescales, generator)


def _round_moments(state: TrainState, generator: torch.Generator | None) -> None:
    """Put the candidate's m and v of the layers with role O onto their grid, each at its own amax."""
    for index, layer in enumerate(state.plan.layers):
        fmt = layer.format_of("optimizer_state")
        if fmt is None:
            continue
        for moment in (state.candidate_adam.m, state.candidate_adam.v):
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


def _adamw(state: TrainState, gradient: Tensor, learning_rate: float) -> None:
    flat, optimizer = state.flat, state.config.optimizer
    start = flat.linear_end if state.plan.frozen_blocks else 0
    if start:
        state.candidate[:start].copy_(flat.values[:start])
    for part, decay in (
        (slice(start, flat.matrix_end), optimizer.weight_decay),
        (slice(flat.matrix_end, flat.bounds[-1]), 0.0),
    ):
        adamw_candidate(
            flat.values[part],
            gradient[part],
            AdamState(state.adam.m[part], state.adam.v[part]),
            state.candidate[part],
            AdamState(state.candidate_adam.m[part], state.candidate_adam.v[part]),
            step=state.adam_step + 1,
            learning_rate=learning_rate,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=decay,
        )


@torch.no_grad()
def re_encode(state: TrainState, update: CandidateUpdate) -> dict[int, float]:
    """Round the layers with a new scale again, from the unrounded candidate, onto the new grid.

    Returns the share of weights whose value that changed, by layer.
    """
    flips: dict[int, float] = {}
    wide = state.flat.linear_views(state.candidate)
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
    start = 0 if update.stored is None else flat.linear_end
    flat.values[:start].copy_(state.rounded[:start])
    flat.values[start:].copy_(state.candidate[start:])
    state.adam, state.candidate_adam = state.candidate_adam, state.adam
    for rescale in update.rescales:
        state.stored_scales[rescale.layer] = rescale.after
    state.streams.adopt("rounding_update", update.rounding_stream)
    state.adam_step += 1
