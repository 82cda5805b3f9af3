"""Every metric there is, by name: what tables, charts, reports and the configuration's patterns read."""

from __future__ import annotations

from altgrad_cli.config.precision import ROLE_LETTERS
from altgrad_cli.metrics.gradient import GRADIENT_METRICS, SHADOW_METRICS
from altgrad_cli.metrics.persistence import PERSISTENCE_METRICS
from altgrad_cli.metrics.rounding import CODE_USE_METRICS, ROUNDING_METRICS
from altgrad_cli.metrics.spec import MetricSpec
from altgrad_cli.metrics.stall import PREDICTION_METRICS
from altgrad_cli.metrics.unreached import UNREACHED_METRICS
from altgrad_cli.metrics.update import MASTER_UPDATE_METRICS, RESCALE_METRICS, STORED_UPDATE_METRICS
from altgrad_cli.metrics.verdict import OUTCOME_METRICS
from altgrad_cli.metrics.weights.grid import INTERVAL_METRICS
from altgrad_cli.metrics.weights.rank import RANK_METRICS

_GROUPS = (
    OUTCOME_METRICS,
    STORED_UPDATE_METRICS,
    MASTER_UPDATE_METRICS,
    RESCALE_METRICS,
    PERSISTENCE_METRICS,
    GRADIENT_METRICS,
    SHADOW_METRICS,
    ROUNDING_METRICS,
    CODE_USE_METRICS,
    INTERVAL_METRICS,
    RANK_METRICS,
    PREDICTION_METRICS,
    UNREACHED_METRICS,
)

METRICS: dict[str, MetricSpec] = {spec.name: spec for group in _GROUPS for spec in group}


def spec_of(key: str) -> MetricSpec | None:
    """The spec behind a key of an event, role suffix included (``overflow_rate/gradients``), or None."""
    return METRICS.get(key.partition("/")[0])


def heading_of(key: str) -> str:
    """What stands above a column of the metric ``key``, the role's letter included: ``overflow G``."""
    name, _, role = key.partition("/")
    words = METRICS[name].heading or name.replace("_", " ")
    return f"{words} {letter}" if (letter := ROLE_LETTERS.get(role)) else words  # type: ignore[call-overload]
