"""The emergency shift: which format follows which, and when."""

from __future__ import annotations

from typing import Any

from altgrad_cli.errors import ConfigError
from altgrad_cli.metrics.thresholds import END_WINDOW, STALL_FROM

FORMAT_FALLBACK: dict[str, str | None] = {
    "E7M0": "E5M2",
    "E1M6": "E3M4",
    "E0M7": "E3M4",
    "E3M4": "E5M2",
    "E5M2": None,
}
"""Format -> the one to shift to. The mantissa grows only from E7M0; the others trade it for range."""


class EmergencyMantissaShift:
    """Calls for the fallback format after NaN batches in a row, or at a bit-stall rate above a threshold.

    It only names the format: rolling back and re-encoding is the engine's work. In training the engine feeds
    it the mean stall of a window (``StallWindow``), for a single step's rate says little.

    Args:
        nan_patience: non-finite batches in a row that call for a shift (>=).
        stall_threshold: bit-stall rate above which (strictly) a shift is called for.

    Raises:
        ConfigError: ``nan_patience`` is below 1, or ``stall_threshold`` not in [0, 1].
    """

    def __init__(self, nan_patience: int = 3, stall_threshold: float = STALL_FROM) -> None:
        if nan_patience < 1:
            raise ConfigError(f"nan_patience = {nan_patience!r} is not allowed", allowed="1 or more batches")
        if not 0 <= stall_threshold <= 1:
            raise ConfigError(
                f"stall_threshold = {stall_threshold!r} is not allowed", allowed="a rate in [0, 1]"
            )
        self.nan_patience = nan_patience
        self.stall_threshold = stall_threshold
        self.last_trigger: str | None = None
        self.consecutive_nans = 0

    def check_and_shift(self, current_format: str, has_nan: bool, stall_rate: float | None) -> str | None:
        """Take in one batch; the name of the format to shift to, or None.

        Args:
            current_format: name of the format now in use; without a fallback (E5M2, or a name that is not in
                ``FORMAT_FALLBACK``) the answer is always None and the count goes on.
            has_nan: the batch gave something non-finite. A good batch resets the count.
            stall_rate: bit-stall rate; None where not measured, which never triggers.

        After a shift the count starts anew, and ``last_trigger`` is ``"nan"`` or ``"stall"``.
        """
        self.consecutive_nans = self.consecutive_nans + 1 if has_nan else 0
        nans = self.consecutive_nans >= self.nan_patience
        stalled = stall_rate is not None and stall_rate > self.stall_threshold
        fallback = FORMAT_FALLBACK.get(current_format.upper())
        if fallback is None or not (nans or stalled):
            return None
        self.reset()
        self.last_trigger = "nan" if nans else "stall"
        return fallback

    def reset(self) -> None:
        """Start counting anew."""
        self.consecutive_nans = 0

    def state_dict(self) -> dict[str, Any]:
        return {"consecutive_nans": self.consecutive_nans, "last_trigger": self.last_trigger}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.consecutive_nans = int(state["consecutive_nans"])
        self.last_trigger = state["last_trigger"]


class StallWindow:
    """Mean bit-stall rate of the last ``length`` steps after warm-up; the input of the shift in training."""

    def __init__(self, length: int = END_WINDOW) -> None:
        self.length = length
        self.rates: list[float] = []

    def update(self, stall_rate: float | None, *, warmed_up: bool) -> float | None:
        """Take in one step; the mean once ``length`` in a row were measured after warm-up, else None."""
        if stall_rate is None or not warmed_up:
            self.rates = []
            return None
        self.rates = [*self.rates, float(stall_rate)][-self.length :]
        return sum(self.rates) / self.length if len(self.rates) == self.length else None

    def reset(self) -> None:
        """Empty the window, as after a shift."""
        self.rates = []

    def state_dict(self) -> dict[str, Any]:
        return {"rates": list(self.rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rates = [float(rate) for rate in state["rates"]]
