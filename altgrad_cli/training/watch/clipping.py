"""Gradient clipping: to a fixed norm, and relative to a format's range while the range overflows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.metrics.thresholds import OVERFLOW_FROM

E5M2_MAX = 57344.0
"""The range that a threshold of ``base_clip`` belongs to."""


class PartitionRelativeClipper:
    """Clips the gradient's L2 norm when at least ``overflow_threshold`` of the values overflowed.

    The threshold is ``base_clip * max / 57344``, the format's range relative to E5M2's. So E3M4's is 0.216 %
    of E5M2's, and E7M0's (3e14) can never bind. Call it between backward and the optimizer step; after the
    step it would be without effect. With Adam a scaled gradient hardly changes the update, which is why
    what it did is kept: ``last_norm`` and ``last_bound``.

    Args:
        format: the format whose range counts.
        base_clip: E5M2's threshold.
        overflow_threshold: overflow rate at which (>=) it acts.

    Raises:
        ConfigError: ``base_clip`` is not above 0, or ``overflow_threshold`` not in [0, 1].
    """

    def __init__(
        self, format: FP8Format | str, base_clip: float = 1.0, overflow_threshold: float = OVERFLOW_FROM
    ) -> None:
        if not base_clip > 0:
            raise ConfigError(f"base_clip = {base_clip!r} is not allowed", allowed="a positive number")
        if not 0 <= overflow_threshold <= 1:
            raise ConfigError(
                f"overflow_threshold = {overflow_threshold!r} is not allowed", allowed="a rate in [0, 1]"
            )
        self.format = parse_format(format)
        self.base_clip = base_clip
        self.overflow_threshold = overflow_threshold
        self.clip_threshold = base_clip * self.format.max_representable_value / E5M2_MAX
        self.last_norm: float | None = None  # gradient norm before clipping; None when it did not act
        self.last_bound = False
        self.reset()

    def clip_if_needed(self, model: nn.Module, overflow_rate: float | None) -> bool:
        """Clip the gradients of ``model`` in place if the rate calls for it; True if clipping was applied.

        A rate of None (not measured) never calls for it. Gradients must be finite: the engine drops a step
        that has others before this is asked.
        """
        return self.clip([p.grad for p in model.parameters() if p.grad is not None], overflow_rate)

    def acts_at(self, overflow_rate: float | None) -> bool:
        """Whether this rate calls for clipping; NaN and None (not measured) do not."""
        return overflow_rate is not None and overflow_rate >= self.overflow_threshold

    def clip(self, gradients: Sequence[Tensor], overflow_rate: float | None) -> bool:
        """The same for the gradients themselves."""
        self.last_norm, self.last_bound = None, False
        if not self.acts_at(overflow_rate):
            return False
        self.last_norm = scale_to_norm(gradients, self.clip_threshold)
        self.last_bound = self.last_norm > self.clip_threshold
        self.applied += 1
        self.bound += self.last_bound
        return True

    def reset(self) -> None:
        """Forget what was done so far."""
        self.applied = 0  # steps on which it acted
        self.bound = 0  # of these, steps on which the norm really was above the threshold
        self.last_norm, self.last_bound = None, False

    def state_dict(self) -> dict[str, Any]:
        return {"applied": self.applied, "bound": self.bound}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.applied, self.bound = int(state["applied"]), int(state["bound"])


def clipper_for(config: TrainConfig, format_name: str) -> PartitionRelativeClipper | None:
    """The range clipper for the format in force, or None where it is off."""
    if not config.enable_partition_clipping:
        return None
    return PartitionRelativeClipper(parse_format(format_name), base_clip=config.partition_clip_base)


@torch.no_grad()
def scale_to_norm(gradients: Sequence[Tensor], limit: float) -> float:
    """Scale the gradients in place to an L2 norm of at most ``limit`` over all of them; the norm before.

    The two halves of ``torch.nn.utils.clip_grad_norm_``, for gradients that no parameter holds: norms are
    summed tensor by tensor, so their order is part of the bits.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(list(gradients), torch.clamp(limit / (norm + 1e-6), max=1.0))
    return float(norm)
