"""How much of a model lies where no setting could round it: said once, before the first step."""

from __future__ import annotations

from altgrad_cli.metrics.spec import AlertRule, MetricSpec
from altgrad_cli.metrics.thresholds import UNREACHED_FROM

UNREACHED_METRICS = (
    MetricSpec(
        "unreached_products",
        "share of a forward pass's multiply-adds outside the layers that can be rounded",
        scope="run",
        bad="high",
        alert=AlertRule("low_coverage", above=UNREACHED_FROM, clears_at=UNREACHED_FROM),
    ),
)
