"""The shape of the GPT."""

from __future__ import annotations

from dataclasses import dataclass

from altgrad_cli.config.limits import check_whole_numbers, require
from altgrad_cli.errors import ConfigError

MOST_PARAMETERS = 10_000_000_000
_LIMITS = {"n_layer": (1, 1024), "n_head": (1, 1024), "n_embd": (1, 65_536), "block_size": (1, 65_536)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Size of the network; the vocabulary comes from the tokenizer."""

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_whole_numbers(self, "model.", _LIMITS)
        if self.n_embd % self.n_head:
            divisors = [heads for heads in range(1, self.n_embd + 1) if self.n_embd % heads == 0]
            raise ConfigError(
                f"model.n_embd = {self.n_embd} is not a multiple of model.n_head = {self.n_head}",
                where="model.n_embd, model.n_head",
                allowed=f"an n_head of {', '.join(map(str, divisors))}, or an n_embd that is a multiple of"
                f" {self.n_head}",
                hint=f"model.n_head={min(divisors, key=lambda heads: abs(heads - self.n_head))}",
            )
        size = self.block_weights
        require(
            size <= MOST_PARAMETERS,
            "model.n_embd, model.n_layer",
            (self.n_embd, self.n_layer),
            f"at most {MOST_PARAMETERS:,} parameters in the blocks; this would be {size:,}",
        )
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a rate in [0, 1)")

    @property
    def block_weights(self) -> int:
        """Number of weights in the linear layers of the blocks."""
        return 12 * self.n_layer * self.n_embd**2
