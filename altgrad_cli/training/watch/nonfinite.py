"""When non-finite steps end a run."""

from __future__ import annotations

from typing import Any, Literal

from altgrad_cli.errors import ConfigError

NanPolicy = Literal["auto", "first", "patience"]

PATIENCE = 10
"""Non-finite steps in a row after which a patient run stops."""
_BASELINE_REGIMES = ("fp32", "bf16", "frozen")
_BASELINE_FORMATS = ("BF16", "E5M2")


def is_baseline(regime: str, format_name: str) -> bool:
    """Whether a run is a baseline of the study (a control regime, BF16, or the control format E5M2)."""
    return regime in _BASELINE_REGIMES or format_name in _BASELINE_FORMATS


def resolve_patience(policy: NanPolicy, *, shift_enabled: bool, baseline: bool) -> int:
    """Non-finite steps in a row that end the run: 1 or ``PATIENCE``.

    ``auto`` is patient for baselines and where the emergency shift has to see several in a row; ``first``
    stops at the first, ``patience`` never before the tenth.

    Raises:
        ConfigError: ``first`` together with the shift, which it would keep from ever acting.
    """
    if policy == "first" and shift_enabled:
        raise ConfigError(
            "nan_policy 'first' stops before the emergency shift could act",
            where="nan_policy, enable_emergency_shift",
            allowed="nan_policy: auto or patience",
            hint="leave nan_policy at auto",
        )
    if policy == "first":
        return 1
    return PATIENCE if policy == "patience" or shift_enabled or baseline else 1


def next_streak(streak: int, nonfinite: bool) -> int:
    """Non-finite steps in a row after one more step; a good step ends the streak."""
    return streak + 1 if nonfinite else 0


class NonfinitePolicy:
    """Counts non-finite steps and says when the run has to stop.

    The first non-finite step of a streak is also when the forensic checkpoint is due (``streak == 1``).
    """

    def __init__(
        self, policy: NanPolicy = "auto", *, shift_enabled: bool = False, baseline: bool = False
    ) -> None:
        self.patience = resolve_patience(policy, shift_enabled=shift_enabled, baseline=baseline)
        self.streak = 0
        self.total = 0
        self.origin: str | None = None
        """What was not finite first in the first step of the streak, in words; the engine says it."""

    def update(self, nonfinite: bool) -> bool:
        """Take in one step; True when the run has to stop."""
        self.streak = next_streak(self.streak, nonfinite)
        self.total += nonfinite
        return self.streak >= self.patience

    def reset(self) -> None:
        """End the streak, as after a shift; the total goes on."""
        self.streak = 0

    def state_dict(self) -> dict[str, Any]:
        return {"streak": self.streak, "total": self.total, "origin": self.origin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.streak, self.total = int(state["streak"]), int(state["total"])
        self.origin = state.get("origin")  # a checkpoint from before it was kept has none
