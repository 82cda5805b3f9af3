"""The constants of the definitions that a report quotes, by the name its sources use."""

from __future__ import annotations

from altgrad_cli.metrics import thresholds

RULES: dict[str, float | int] = {
    "trained.from": thresholds.TRAINED_FROM,
    "failed.below": thresholds.FAILED_BELOW,
    "borderline.width": thresholds.EDGE_WIDTH,
    "seed.spread": thresholds.SEED_SPREAD,
    "ends.apart": thresholds.ENDS_APART_FROM,
    "underflowed.from": thresholds.UNDERFLOWED_FROM,
    "saturated.from": thresholds.SATURATED_FROM,
    "stall.from": thresholds.STALL_FROM,
    "stalled.up_to": thresholds.STALLED_UP_TO,
    "slowed.up_to": thresholds.SLOWED_UP_TO,
    "stall_collapse.transfer": thresholds.COLLAPSE_TRANSFER,
    "stall_collapse.stall": thresholds.COLLAPSE_STALL,
    "stall_collapse.window": thresholds.COLLAPSE_WINDOW,
    "end.window": thresholds.END_WINDOW,
    "gradient_sparsity.below": thresholds.DEAD_GRADIENT,
    "zero_update_region.from": thresholds.REGION_FROM,
    "zero_update_region.window": thresholds.REGION_STEPS,
}
