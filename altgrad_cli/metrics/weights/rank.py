"""The rank of a weight matrix, in three readings of its singular values, and whether it falls.

The exact rank says nothing of floats: it is full but for accidents. Each of the three has a name of its own,
for they differ (of a trained head 1, 57 and 67):

    stable rank     |W|_F^2 / |W|_2^2 (Rudelson and Vershynin 2007), ruled by the largest singular value
    effective rank  exp of the entropy of the singular values over their sum (Roy and Vetterli 2007)
    variance rank   how many singular values it takes for 99 % of |W|_F^2

A rank that falls is no failure: learning lowers that of random weights in float32 too, and frozen weights
keep theirs. Only a fall that no healthy run shows warns. A run's value is made from its hidden layers': the
head is most often the token embedding, whose rank learning lowers most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from altgrad_cli.metrics.spec import AlertRule, MetricSpec
from altgrad_cli.metrics.thresholds import RANK_FALL_EXPOSED, RANK_FALL_FROM, RANK_WINDOW, VARIANCE_SHARE


@torch.no_grad()
def measure_rank(weight: Tensor) -> dict[str, float | None]:
    """The three ranks and the spectral norm of a layer's weight, in float64 on the CPU.

    Args:
        weight: (out_features, in_features), any float type; further dimensions belong to the row.

    Zero has norm 0 and no rank (None). A weight that is not finite has NaN for all.
    """
    matrix = weight.flatten(1).to("cpu", torch.float64)
    names = ("stable_rank", "effective_rank", "variance_rank")
    if not bool(matrix.isfinite().all()):
        return dict.fromkeys((*names, "spectral_norm"), math.nan)
    values = torch.linalg.svdvals(matrix)
    norm = values[0].item()
    if norm == 0:
        return dict.fromkeys(names) | {"spectral_norm": 0.0}
    energy = (values / norm).square().cumsum(0)
    return {
        "stable_rank": energy[-1].item(),
        "effective_rank": torch.special.entr(values / values.sum()).sum().exp().item(),
        "variance_rank": 1.0 + int((energy < VARIANCE_SHARE * energy[-1]).sum()),
        "spectral_norm": norm,
    }


class RankTrend:
    """Which share of its effective rank each layer lost over the last ``RANK_WINDOW`` measurements.

    A line is fitted by least squares through the logarithms of the ranks, that is the entropies: the share is
    1 - exp(what the line rises by from the first to the last of them), negative where the rank grows.

    Args:
        layers: how many there are.
    """

    def __init__(self, layers: int) -> None:
        self.entropies: list[list[float]] = [[] for _ in range(layers)]

    def advance(self, ranks: Sequence[float | None]) -> list[float | None]:
        """Take in one measurement, a rank a layer; the shares, None until the window is full.

        A layer without a rank (None or NaN) starts anew.
        """
        for layer, rank in enumerate(ranks):
            if rank is None or math.isnan(rank):
                self.entropies[layer] = []
            else:
                self.entropies[layer] = [*self.entropies[layer], math.log(rank)][-RANK_WINDOW:]
        return [_fall(window) if len(window) == RANK_WINDOW else None for window in self.entropies]

    def reset(self) -> None:
        """Forget everything, as after a shift of the format."""
        self.__init__(len(self.entropies))  # type: ignore[misc]

    def state_dict(self) -> dict[str, list[list[float]]]:
        return {"entropies": [list(window) for window in self.entropies]}

    def load_state_dict(self, state: Mapping[str, Sequence[Sequence[float]]]) -> None:
        self.entropies = [[float(entropy) for entropy in window] for window in state["entropies"]]


def _fall(entropies: Sequence[float]) -> float:
    middle = (len(entropies) - 1) / 2
    times = [place - middle for place in range(len(entropies))]
    slope = math.fsum(t * h for t, h in zip(times, entropies, strict=True)) / math.fsum(t * t for t in times)
    return -math.expm1(slope * 2 * middle)


_rank = partial(MetricSpec, unit="dimensions", pooling="layers", by_layer=True)
_falls = partial(AlertRule, "falling_rank", clear_steps=2)

RANK_METRICS = (
    _rank("stable_rank", "|W|_F^2 / |W|_2^2 of the weights as they are stored"),
    _rank("effective_rank", "exp of the entropy of the singular values over their sum"),
    _rank(
        "variance_rank",
        f"fewest singular values whose squares make up {VARIANCE_SHARE:.0%} of |W|_F^2",
        heading="99 % variance rank",
    ),
    MetricSpec(
        "spectral_norm",
        "largest singular value of the weights as they are stored",
        unit="weight units",
        pooling="max",
        by_layer=True,
    ),
    MetricSpec(
        "effective_rank_fall",
        f"share of the effective rank lost over the last {RANK_WINDOW} measurements, along a line fitted to "
        "its logarithm; negative where it grows",
        unit="ratio",
        heading="rank lost",
        pooling="max",
        bad="high",
        alert=_falls(
            above=RANK_FALL_FROM,
            clears_at=0.8 * RANK_FALL_FROM,
            exposed=_falls(above=RANK_FALL_EXPOSED, clears_at=0.8 * RANK_FALL_EXPOSED),
        ),
        by_layer=True,
    ),
)
