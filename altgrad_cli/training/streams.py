"""The private random streams of a run.

One generator a purpose, each seeded from (seed, purpose): drawing more from one moves no other, so that
monitors, evaluation or stochastic rounding never change which batch comes next.
"""

from __future__ import annotations

import hashlib

import torch

PURPOSES = ("init", "data", "evaluation", "dropout", "rounding_operands", "rounding_update")


def derive_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for ``purpose``, the same on every platform."""
    digest = hashlib.sha256(f"altgrad/{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def fork(generator: torch.Generator) -> torch.Generator:
    """An independent generator at the same position."""
    twin = torch.Generator(device=generator.device)
    twin.set_state(generator.get_state())
    return twin


class Streams:
    """The generators of one run by purpose; all of them are saved in a checkpoint."""

    def __init__(self, seed: int) -> None:
        self._generators: dict[str, torch.Generator] = {}
        for purpose in PURPOSES:
            # All on the CPU, where bits are portable; stochastic rounding draws only a key a tensor.
            generator = torch.Generator()
            generator.manual_seed(derive_seed(seed, purpose))
            self._generators[purpose] = generator

    def __getitem__(self, purpose: str) -> torch.Generator:
        return self._generators[purpose]

    def adopt(self, purpose: str, generator: torch.Generator | None) -> None:
        """Continue ``purpose`` where ``generator`` (a fork of it) stands; None leaves it where it is."""
        if generator is not None:
            self._generators[purpose] = generator

    def adopt_all(self, generators: dict[str, torch.Generator]) -> None:
        """``adopt`` for every purpose in ``generators``."""
        self._generators.update(generators)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The position of every stream as a uint8 tensor."""
        return {purpose: generator.get_state() for purpose, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go to the positions in ``state``."""
        for purpose, position in state.items():
            self._generators[purpose].set_state(position)
