"""What the optimizer's update did to the weights: stall, flips, zero updates, transfer.

Measured from the update itself, never estimated from lr * gradient. "Did not change" compares grid values
at the *pre-step* scale: with a moving scale every value changes and nothing would ever stall.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altgrad_cli.diagnostics.counting import as_rows, count, count_both, inner, scratch_like, table
from altgrad_cli.diagnostics.persistence import PersistentStall
from altgrad_cli.diagnostics.spec import MetricSpec, Row, ratio

UPDATE_COLUMNS = (
    "count",
    "updated",
    "unchanged",
    "stalled",
    "sign_changed",
    "gradient_nonzero",
    "gradient_unchanged",
    "transfer_dot",
    "update_square",
)
"""Raw counts (elements) and sums of ``measure_updates``, in the order of its columns."""


@torch.no_grad()
def measure_updates(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    updates: Sequence[Tensor],
    gradients: Sequence[Tensor],
    *,
    stored: bool = True,
    persistence: PersistentStall | None = None,
) -> tuple[Tensor, Tensor]:
    """Raw counts of one step's update, per layer; nothing is read by the host.

    Args:
        before: per layer, the grid value (code times scale) of each weight before the step, float32. With
            power-of-two scales equal values are equal codes, and -0 counts as 0.
        after: the same after the step, *at the pre-step scale*.
        updates: the optimizer's real change dw of each weight, decay included, before rounding.
        gradients: the gradient the update was made from.
        stored: True when ``before`` and ``after`` are the stored weights themselves (role M). False with
            float32 masters, where they are only the masters' grid values: then a zero update is dw = 0,
            for the stored weight is the master.
        persistence: the buffers of the persistent stall, advanced in the same pass (commit step only).

    Returns:
        A float64 tensor (layers, len(UPDATE_COLUMNS)), and a float32 tensor (total rows, 2): per output
        row of all layers, one after the other, the counts ``gradient_nonzero`` and ``gradient_unchanged``.

    A NaN differs from everything: it counts as updated and as changed, and makes the sums NaN.
    """
    tensors = list(before)
    work, same_buffer, other = (scratch_like(tensors) for _ in range(3))
    rows: list[list[Tensor]] = []
    row_counts: list[Tensor] = []
    for layer, (w, w_after, dw, g) in enumerate(zip(before, after, updates, gradients, strict=True)):
        shape, n = w.shape, w.numel()
        scratch, same, mask = (buffer[:n].view(shape) for buffer in (work, same_buffer, other))
        torch.eq(w, w_after, out=same)
        torch.ne(dw, 0, out=mask)
        updated, stalled = count(mask), count_both(mask, same)
        torch.mul(w, w_after, out=scratch)
        sign_changed = count(scratch.lt_(0))
        torch.sub(w_after, w, out=scratch)
        transfer = inner(scratch, dw)
        unmoved = same if stored else torch.eq(dw, 0, out=mask)
        torch.ne(g, 0, out=scratch)
        nonzero_rows = as_rows(scratch).sum(dim=1)
        scratch.mul_(unmoved)
        unchanged_rows = as_rows(scratch).sum(dim=1)
        row_counts.append(torch.stack((nonzero_rows, unchanged_rows), dim=1))
        nonzero, nonzero_unmoved = row_counts[-1].sum(dim=0).unbind()
        rows.append(
            [
                torch.full((), n, dtype=w.dtype, device=w.device),
                updated,
                count(same),
                stalled,
                sign_changed,
                nonzero,
                nonzero_unmoved,
                transfer,
                inner(dw, dw),
            ]
        )
        if persistence is not None:
            persistence.advance(layer, dw, same, scratch)
    return table(rows), torch.cat(row_counts)


def bit_stall_rate(row: Row) -> float | None:
    """Share of the updated weights (dw != 0) whose code did not change."""
    return ratio(row["stalled"], row["updated"])


def flip_rate(row: Row) -> float | None:
    """Share of all weights whose code changed."""
    return ratio(row["count"] - row["unchanged"], row["count"])


def sign_flip_rate(row: Row) -> float | None:
    """Share of all weights that went from one sign to the other within the step (to or from 0 is none)."""
    return ratio(row["sign_changed"], row["count"])


def zero_update_fraction(row: Row) -> float | None:
    """Share of the weights with a gradient that were left unchanged; None where no gradient is."""
    return ratio(row["gradient_unchanged"], row["gradient_nonzero"])


def update_transfer(row: Row) -> float | None:
    """tau = <w_after - w_before, dw> / |dw|^2; None when nothing was to be updated."""
    return ratio(row["transfer_dot"], row["update_square"])


def update_norm(row: Row) -> float:
    """L2 norm of dw."""
    return float(row["update_square"] ** 0.5)


_SHARED = (
    MetricSpec(
        name="zero_update_fraction",
        unit="fraction",
        definition="share of weights with a non-zero gradient whose stored value did not change; "
        "null where no gradient is",
        scope="layer",
        cadence="step",
        formula=zero_update_fraction,
    ),
    MetricSpec(
        name="update_norm",
        unit="weight units",
        definition="L2 norm of dw, the optimizer's real change of the weights, decay included, unrounded",
        scope="layer",
        cadence="step",
        formula=update_norm,
    ),
)

STORED_UPDATE_METRICS = (
    MetricSpec(
        name="bit_stall_rate",
        unit="fraction",
        definition="share of weights with dw != 0 whose stored code did not change (role stored_weights)",
        scope="layer",
        cadence="step",
        formula=bit_stall_rate,
    ),
    MetricSpec(
        name="flip_rate",
        unit="fraction",
        definition="share of weights whose stored code changed, at the pre-step scale",
        scope="layer",
        cadence="step",
        formula=flip_rate,
    ),
    MetricSpec(
        name="sign_flip_rate",
        unit="fraction",
        definition="share of weights that changed sign within the step",
        scope="layer",
        cadence="step",
        formula=sign_flip_rate,
    ),
    MetricSpec(
        name="update_transfer",
        unit="ratio",
        definition="tau = <w_after - w_before, dw> / |dw|^2 of the stored weights: 0 frozen, 1 faithful",
        scope="layer",
        cadence="step",
        formula=update_transfer,
    ),
    *_SHARED,
)
"""Metrics of layers whose stored weights live on the grid (role M)."""

MASTER_UPDATE_METRICS = (
    MetricSpec(
        name="apparent_stall_rate",
        unit="fraction",
        definition="share of weights with dw != 0 whose rounded value did not change although the float32 "
        "master did: no loss of the update, and never a trigger",
        scope="layer",
        cadence="step",
        formula=bit_stall_rate,
    ),
    MetricSpec(
        name="apparent_flip_rate",
        unit="fraction",
        definition="share of weights whose rounded value changed, at the pre-step scale, float32 masters",
        scope="layer",
        cadence="step",
        formula=flip_rate,
    ),
    *_SHARED,
)
"""Metrics of layers with float32 masters, of whose grid values the counts were taken."""

RESCALE_METRICS = (
    MetricSpec(
        name="rescale_flip_rate",
        unit="fraction",
        definition="share of stored weights whose value changed because a new scale re-encoded them; "
        "no part of the flip rate",
        scope="layer",
        cadence="step",
    ),
)


def rescale_flip_rate(before: Tensor, after: Tensor) -> Tensor:
    """Share of stored weights whose value a re-encoding at a new scale changed, 0-d float tensor."""
    return torch.ne(before, after).float().mean()
