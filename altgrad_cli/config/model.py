"""The shape of the GPT."""

from __future__ import annotations

from dataclasses import dataclass

from altgrad_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Size of the network; the vocabulary comes from the tokenizer."""

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for key in ("n_layer", "n_head", "n_embd", "block_size"):
            if getattr(self, key) < 1:
                raise ConfigError(
                    f"model.{key} = {getattr(self, key)} is not allowed",
                    where=f"model.{key}",
                    allowed="1 or more",
                )
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"model.n_embd = {self.n_embd} is not a multiple of model.n_head = {self.n_head}",
                where="model.n_embd",
                allowed=f"a multiple of {self.n_head}",
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"model.dropout = {self.dropout} is not allowed",
                where="model.dropout",
                allowed="a rate in [0, 1)",
            )
