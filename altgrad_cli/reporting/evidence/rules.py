"""The constants of the definitions that a report quotes, by the name its sources use."""

from __future__ import annotations

from altgrad_cli.metrics import verdict as outcome
from altgrad_cli.runs.record import END_WINDOW
from altgrad_cli.sweeps import retries
from altgrad_cli.training.watch import collapse

SPARSE_BELOW = 1e-8
"""A gradient smaller than this counts as absent."""
ZERO_UPDATE_REGION_FROM = 0.99
ZERO_UPDATE_WINDOW = 50
"""A layer is a zero-update region where this share of its weights with a gradient did not change, so long."""

RULES: dict[str, float | int] = {
    "trained.from": outcome.TRAINED_FROM,
    "failed.below": outcome.FAILED_BELOW,
    "borderline.width": outcome.EDGE_WIDTH,
    "underflowed.from": outcome.UNDERFLOWED_FROM,
    "saturated.from": outcome.SATURATED_FROM,
    "stall.from": retries.STALL_FROM,
    "stalled.up_to": outcome.STALLED_UP_TO,
    "slowed.up_to": outcome.SLOWED_UP_TO,
    "stall_collapse.transfer": collapse.COLLAPSE_TRANSFER,
    "stall_collapse.stall": collapse.COLLAPSE_STALL,
    "stall_collapse.window": collapse.WINDOW,
    "end.window": END_WINDOW,
    "gradient_sparsity.below": SPARSE_BELOW,
    "zero_update_region.from": ZERO_UPDATE_REGION_FROM,
    "zero_update_region.window": ZERO_UPDATE_WINDOW,
}
