"""Everything that watches a run across steps, and the decisions that follow from what it saw.

The engine asks at fixed points of the step and acts itself; nothing here touches weights or gradients.
All of it is saved with a checkpoint, so that a patience of three survives a resume at two.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.persistence import DeadNeurons, PersistentStall, ZeroUpdateRegions
from altgrad_cli.metrics.weights.rank import RankTrend
from altgrad_cli.training.measuring.passes import Measurements, check_windows
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.watch.alerts import AlertChange, Alerts
from altgrad_cli.training.watch.clipping import clipper_for
from altgrad_cli.training.watch.collapse import Divergence, RisingLoss, StallCollapse
from altgrad_cli.training.watch.fallback import EmergencyMantissaShift, StallWindow
from altgrad_cli.training.watch.nonfinite import NonfinitePolicy, is_baseline
from altgrad_cli.training.watch.validation import ValidationLoss

HISTORY_STEPS = 100
"""How many steps of scalars an anomaly checkpoint carries."""


class Monitors:
    """The watchers of one run.

    Raises:
        ConfigError: a window of the configuration matches no metric or no layer.
    """

    def __init__(self, config: TrainConfig, state: TrainState) -> None:
        check_windows(config.monitors, state.layer_names)
        on = config.monitors.enabled
        stored = on and state.plan.stores_weights
        blocks = state.flat.layout(blocks_only=True)
        self.dead = DeadNeurons(state.flat.layout(blocks_only=False)) if on else None
        weights = state.flat.values[: state.flat.linear_end]
        self.persistence = PersistentStall(blocks, weights) if stored else None
        self.regions = ZeroUpdateRegions(blocks) if stored else None
        self.ranks = RankTrend(len(state.layers)) if on and config.log_rank else None
        unfed = [name for name, kind in state.layer_kinds.items() if kind != "normalised"]
        self.alerts = Alerts(exposed=unfed)
        self.stall_collapse = StallCollapse()
        self.divergence = Divergence()
        self.rising_loss = RisingLoss()
        self.stall_window = StallWindow()
        self.nonfinite = NonfinitePolicy(
            config.nan_policy,
            shift_enabled=config.enable_emergency_shift,
            baseline=is_baseline(config.precision.regime, state.format),
        )
        self.clipper = clipper_for(config, state.format)
        self.shift: EmergencyMantissaShift | None = None
        if config.enable_emergency_shift:
            self.shift = EmergencyMantissaShift(
                nan_patience=config.emergency_shift_nan_patience,
                stall_threshold=config.emergency_shift_stall_threshold,
            )
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY_STEPS)
        self.validation = ValidationLoss()

    def alert_changes(self, measured: Measurements, loss: float, layer_names: list[str]) -> list[AlertChange]:
        """Alerts raised or cleared by this step's measurements, pooled and by layer."""
        flags = {
            "rising_loss": float(self.rising_loss.update(loss)),
            "divergence": float(self.divergence.update(loss)),
        }
        changes = self.alerts.update({**measured.metrics, **flags})
        watched = self.alerts.watched(measured.layers)
        for index, name in enumerate(layer_names):
            changes += self.alerts.update({metric: values[index] for metric, values in watched.items()}, name)
        return changes

    def start_over(self, config: TrainConfig, state: TrainState) -> None:
        """After a shift: what was counted belongs to the old format."""
        counted = (self.dead, self.persistence, self.regions, self.ranks)
        for watcher in (*counted, self.stall_collapse, self.stall_window):
            if watcher is not None:
                watcher.reset()
        self.nonfinite.reset()
        self.clipper = clipper_for(config, state.format)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        present = {name: getattr(self, name) for name in _WATCHERS}
        return {
            "watchers": {
                name: watcher.state_dict() for name, watcher in present.items() if watcher is not None
            },
            "history": list(self.history),
            **self.validation.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` stands."""
        for name, saved in state["watchers"].items():
            watcher = getattr(self, name)
            if watcher is not None:
                watcher.load_state_dict(saved)
        self.history.extend(state["history"])
        self.validation.load_state_dict(state)


_WATCHERS = (
    "dead",
    "persistence",
    "regions",
    "ranks",
    "alerts",
    "stall_collapse",
    "divergence",
    "rising_loss",
    "stall_window",
    "nonfinite",
    "clipper",
    "shift",
)
