"""What lasts: weights that stay frozen though pushed, dead output rows, regions that never update.

Each class is a handful of buffers that are advanced once a committed step. None copies a window of weights;
all have a ``state_dict``, for they must survive a resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from altgrad_cli.metrics.layer_sums import FlatLayout
from altgrad_cli.metrics.spec import AlertRule, MetricSpec
from altgrad_cli.metrics.thresholds import DEAD_GRADIENT, PERSISTENCE_STEPS, REGION_FROM, REGION_STEPS
from altgrad_cli.notation import format_value


class _Buffers:
    """Tensors of a subclass, by the names in ``_kept``, as a resume takes them up again."""

    _kept: ClassVar[tuple[str, ...]]

    def reset(self) -> None:
        """Forget everything, as after a shift of the format."""
        for name in self._kept:
            getattr(self, name).zero_()

    def state_dict(self) -> dict[str, Tensor | int]:
        return {name: getattr(self, name).clone() for name in self._kept}

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        for name in self._kept:
            getattr(self, name).copy_(state[name])


class PersistentStall(_Buffers):
    """Two numbers a weight: |dw| summed since its code last changed, and the committed steps since then.

    A weight is *persistently stalled* when that sum exceeds half the gap of the grid and the last change is
    at least ``PERSISTENCE_STEPS`` steps ago: it was pushed far enough in total and still never moved. Before
    the first change, steps are counted from the start (or from the last shift of the format).

    Args:
        layout: the layers' places in the flat buffer.
        like: a flat tensor whose type and device the buffers take.
    """

    _kept = ("pushed", "age")

    def __init__(self, layout: FlatLayout, like: Tensor) -> None:
        self.layout = layout
        self.pushed = torch.zeros_like(like)
        self.age = torch.zeros_like(like)

    def advance(self, part: slice, update: Tensor, same: Tensor, scratch: Tensor) -> None:
        """Take in one committed step of a part of the flat buffer.

        Args:
            part: that part.
            update: dw there.
            same: 1.0 where the code did not change, else 0.0.
            scratch: a buffer of that length, overwritten.
        """
        torch.abs(update, out=scratch)
        self.pushed[part].add_(scratch).mul_(same)
        age = self.age[part]
        torch.addcmul(same, age, same, out=age)  # age = (age + 1) * same

    def rates(self, gaps: Tensor, *, steps: int = PERSISTENCE_STEPS) -> Tensor:
        """Share of persistently stalled weights, float64 (layers,); ``gaps``: u(w) of every weight, flat."""
        stuck = ((self.pushed > gaps / 2) & (self.age >= steps)).double()
        return torch.stack([layer.mean() for layer in self.layout.views(stuck)])


class DeadNeurons(_Buffers):
    """Output rows whose largest |gradient| stayed below 1e-8 for 100 consecutive steps.

    Args:
        layout: the layers and their rows.
        steps: consecutive steps that make a row dead.
    """

    _kept = ("streak",)

    def __init__(self, layout: FlatLayout, *, steps: int = PERSISTENCE_STEPS) -> None:
        self.layout = layout
        self._steps = steps
        self.streak = torch.zeros_like(layout.layer_of_row, dtype=torch.int32)

    def advance(self, row_maxima: Tensor) -> Tensor:
        """Take in one step's max |gradient| per row, float (rows,); returns dead rows, float64 (layers,).

        A NaN is no quiet row: it ends the streak.
        """
        self.streak.add_(1).mul_(row_maxima < DEAD_GRADIENT)
        return self.counts()

    def counts(self) -> Tensor:
        """Number of dead rows, float64 (layers,)."""
        dead = (self.streak >= self._steps).double()
        return self.layout.layer_sums(dead.unsqueeze(1))[:, 0]


class ZeroUpdateRegions(_Buffers):
    """Layers and output rows of which at least 99 % of the weights with a gradient did not change.

    The fraction is taken over windows of 50 steps, one after the other; what is reported belongs to the last
    complete window. A row without any gradient in a window has no fraction (NaN).

    Args:
        layout: the layers and their rows.
        steps: length of a window.
    """

    _kept = ("sums", "last")

    def __init__(self, layout: FlatLayout, *, steps: int = REGION_STEPS) -> None:
        self.layout = layout
        self._window = steps
        rows = layout.layer_of_row
        self.sums = torch.zeros(len(rows), 2, dtype=torch.float64, device=rows.device)
        self.last = torch.zeros_like(self.sums)
        self.steps_in_window = 0

    def advance(self, row_counts: Tensor) -> bool:
        """Take in (rows, 2) counts of ``measure_updates``; True when this step completed a window."""
        self.sums += row_counts
        self.steps_in_window += 1
        if self.steps_in_window < self._window:
            return False
        self.last.copy_(self.sums)
        self.reset()
        return True

    def row_fractions(self) -> Tensor:
        """Zero-update fraction of each row in the last complete window, float64 (rows,); NaN: no gradient."""
        return self.last[:, 1] / self.last[:, 0]

    def layer_fractions(self) -> Tensor:
        """The same pooled over the rows of each layer, float64 (layers,)."""
        totals = self.layout.layer_sums(self.last)
        return totals[:, 1] / totals[:, 0]

    def row_counts(self) -> Tensor:
        """Number of zero-update rows in each layer in the last complete window, float64 (layers,)."""
        stuck = (self.row_fractions() >= REGION_FROM).double()
        return self.layout.layer_sums(stuck.unsqueeze(1))[:, 0]

    def reset(self) -> None:
        """Start a new window; the last complete one stays."""
        self.sums.zero_()
        self.steps_in_window = 0

    def state_dict(self) -> dict[str, Tensor | int]:
        return super().state_dict() | {"steps_in_window": self.steps_in_window}

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        super().load_state_dict(state)
        self.steps_in_window = int(state["steps_in_window"])


PERSISTENCE_METRICS = (
    MetricSpec(
        "persistent_stall_rate",
        f"share of stored weights whose code last changed {PERSISTENCE_STEPS} or more steps ago though |dw| "
        "summed since then exceeds half the gap",
        heading="persistent stall",
        pooling="weights",
        bad="high",
        by_layer=True,
    ),
    MetricSpec(
        "dead_neurons",
        f"output rows whose largest |gradient| was below {format_value(DEAD_GRADIENT)} for "
        f"{PERSISTENCE_STEPS} consecutive steps",
        unit="rows",
        heading="dead rows",
        pooling="sum",
        bad="high",
        alert=AlertRule("dead_neurons", 0.0, 0.0),
        by_layer=True,
    ),
    MetricSpec(
        "zero_update_region_fraction",
        f"zero-update fraction over the last complete window of {REGION_STEPS} steps; a layer or a row at "
        f"{REGION_FROM} or above is a zero-update region",
        heading="zero updates, window",
        pooling="weights",
        bad="high",
        by_layer=True,
    ),
    MetricSpec(
        "zero_update_rows",
        f"output rows with a zero-update fraction of {REGION_FROM} or above over the last complete window",
        unit="rows",
        heading="rows frozen",
        pooling="sum",
        bad="high",
        by_layer=True,
    ),
)
