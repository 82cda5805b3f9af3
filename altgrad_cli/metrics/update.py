"""What the optimizer's update did to the weights: stall, flips, zero updates, transfer.

Measured from the update itself, never estimated from lr * gradient. "Did not change" compares grid values
at the *pre-step* scale: with a moving scale every value changes and nothing would ever stall.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altgrad_cli.metrics.layer_sums import FlatLayout, Group
from altgrad_cli.metrics.persistence import PersistentStall
from altgrad_cli.metrics.spec import AlertRule, MetricSpec, ratio, share
from altgrad_cli.metrics.thresholds import STALL_FROM

UPDATE_COLUMNS = (
    "count",
    "updated",
    "unchanged",
    "stalled",
    "gradient_nonzero",
    "gradient_unchanged",
    "transfer_dot",
    "update_square",
)
"""Raw counts (of weights) and sums of ``measure_updates``, in the order of its columns."""

_MASKS = ("updated", "unchanged", "stalled", "gradient_nonzero", "gradient_unchanged")


@torch.no_grad()
def measure_updates(
    layout: FlatLayout,
    before: Tensor,
    after: Tensor,
    update: Tensor,
    gradient: Tensor,
    *,
    stored: bool | Sequence[bool] = True,
    persistence: PersistentStall | None = None,
) -> tuple[Tensor, Tensor]:
    """Raw counts of one step's update, per layer; nothing is read by the host.

    Args:
        layout: the layers' places in the four flat tensors, all 1-D, float32 (or all float64), contiguous.
        before: the grid value (code times scale) of each weight before the step. With power-of-two scales
            equal values are equal codes, and -0 counts as 0.
        after: the same after the step, *at the pre-step scale*.
        update: the optimizer's real change dw of each weight, decay included, before rounding.
        gradient: the gradient the update was made from.
        stored: per layer or for all, whether ``before`` and ``after`` are the stored weights themselves
            (role M). Where False, with float32 masters, they are only the masters' grid values, and a zero
            update is dw = 0, for the stored weight is the master.
        persistence: the buffers of the persistent stall, advanced in the same pass; None in a trial pass.

    Returns:
        A float64 tensor (layers, len(UPDATE_COLUMNS)), and a float64 tensor (rows, 2): for each output row
        of all layers, one after the other, the counts ``gradient_nonzero`` and ``gradient_unchanged``.

    A NaN differs from everything: it counts as updated and as changed, and makes the sums NaN.
    """
    flags = [stored] * len(layout.shapes) if isinstance(stored, bool) else list(stored)
    sums = layout.block_sums(len(_MASKS), before)
    buffers = torch.empty(3, layout.largest_group, dtype=before.dtype, device=before.device)
    transfers: list[Tensor] = []
    squares: list[Tensor] = []
    for group in layout.groups:
        w, w_after, dw, g = (tensor[group.values] for tensor in (before, after, update, gradient))
        same, mask, scratch = (buffer[: w.numel()] for buffer in buffers)
        updated, unchanged, stalled, nonzero, zero_update = (row[group.blocks] for row in sums)
        torch.eq(w, w_after, out=same)
        layout.sum_blocks(same, unchanged)
        torch.ne(dw, 0, out=mask)
        layout.sum_blocks(mask, updated)
        if _all_ones(updated, w.numel()):
            stalled.copy_(unchanged)
        else:
            layout.sum_blocks(mask.mul_(same), stalled)
        torch.sub(w_after, w, out=scratch)
        transfers += layout.inner(scratch, dw, group)
        squares += layout.inner(dw, dw, group)
        torch.ne(g, 0, out=scratch)
        layout.sum_blocks(scratch, nonzero)
        unmoved = _unmoved(same, dw, mask, [flags[layer] for layer in group.layers], group)
        if unmoved is same and _all_ones(nonzero, w.numel()):
            zero_update.copy_(unchanged)
        else:
            layout.sum_blocks(scratch.mul_(unmoved), zero_update)
        if persistence is not None:
            persistence.advance(group.values, dw, same, scratch)
    rows = layout.row_sums(sums)
    counts = layout.layer_sums(rows)
    dots = torch.stack(transfers + squares).view(2, -1).T.double()
    return torch.cat((layout.counts.unsqueeze(1), counts, dots), dim=1), rows[:, 3:]


def _all_ones(block_sums: Tensor, values: int) -> bool:
    """Whether a mask with these sums is 1 everywhere; False off the CPU, rather than wait for the device.

    Usually every weight has a gradient and is updated: to multiply by such a mask changes nothing.
    """
    return block_sums.device.type == "cpu" and block_sums.sum().item() == values


def _unmoved(same: Tensor, update: Tensor, buffer: Tensor, stored: list[bool], group: Group) -> Tensor:
    """1.0 where the stored weight did not change: ``same`` where it is on the grid, dw = 0 for a master."""
    if all(stored):
        return same
    torch.eq(update, 0, out=buffer)
    for part, on_grid, flag in zip(group.split(buffer), group.split(same), stored, strict=True):
        if flag:
            part.copy_(on_grid)
    return buffer


SHARED_UPDATE_METRICS = (
    MetricSpec(
        "zero_update_fraction",
        "share of weights with a non-zero gradient whose stored value did not change; null where no"
        " gradient is",
        formula=share("gradient_unchanged", "gradient_nonzero"),
        heading="zero updates",
        bad="high",
        by_layer=True,
    ),
    MetricSpec(
        "update_norm",
        "L2 norm of dw, the optimizer's real change of the weights, decay included, unrounded",
        unit="weight units",
        formula=lambda row: float(row["update_square"] ** 0.5),
    ),
)
"""Metrics of every updated layer, whatever its weights are kept in."""

STORED_UPDATE_METRICS = (
    MetricSpec(
        "bit_stall_rate",
        "share of weights with dw != 0 whose stored code did not change (role stored_weights)",
        formula=share("stalled", "updated"),
        heading="bit-stall",
        bad="high",
        alert=AlertRule("stall", STALL_FROM, 0.8 * STALL_FROM),
        by_layer=True,
    ),
    MetricSpec(
        "flip_rate",
        "share of weights whose stored code changed, at the pre-step scale",
        formula=lambda row: ratio(row["count"] - row["unchanged"], row["count"]),
        heading="flips",
        bad="low",
    ),
    MetricSpec(
        "update_transfer",
        "tau = <w_after - w_before, dw> / |dw|^2 of the stored weights: 0 frozen, 1 faithful",
        unit="ratio",
        formula=share("transfer_dot", "update_square"),
        heading="tau",
        bad="low",
        by_layer=True,
    ),
    *SHARED_UPDATE_METRICS,
)
"""Metrics of layers whose stored weights live on the grid (role M)."""

MASTER_UPDATE_METRICS = (
    MetricSpec(
        "apparent_stall_rate",
        "share of weights with dw != 0 whose rounded value did not change although the float32 "
        "master did: no loss of the update, and never a trigger",
        formula=share("stalled", "updated"),
        heading="apparent stall",
        by_layer=True,
    ),
    MetricSpec(
        "apparent_flip_rate",
        "share of weights whose rounded value changed, at the pre-step scale, float32 masters",
        formula=lambda row: ratio(row["count"] - row["unchanged"], row["count"]),
        heading="apparent flips",
    ),
    *SHARED_UPDATE_METRICS,
)
"""Metrics of layers with float32 masters, of whose grid values the counts were taken."""

RESCALE_METRICS = (
    MetricSpec(
        "rescale_flip_rate",
        "share of stored weights whose value changed because a new scale re-encoded them; no part "
        "of the flip rate",
        heading="flips by a new scale",
        pooling="weights",
    ),
)


def rescale_flip_rate(before: Tensor, after: Tensor) -> Tensor:
    """Share of stored weights whose value a re-encoding at a new scale changed, 0-d float tensor."""
    return torch.ne(before, after).float().mean()
