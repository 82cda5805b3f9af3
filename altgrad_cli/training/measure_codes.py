"""Which codes the operands of a pass use: whole histograms, on diagnostic steps only."""

from __future__ import annotations

from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.quantization.precision import OPERAND_ROLES
from altgrad_cli.quantization.quantize import code_histogram
from altgrad_cli.training.state import TrainState


class CodeCensus:
    """An observer of one pass that counts the codes of every operand on a grid of at most 8 bits."""

    def __init__(self, state: TrainState) -> None:
        self._layers = len(state.layers)
        self._counts: dict[tuple[int, int], Tensor] = {}

    def __call__(self, layer: int, role: int, x: Tensor, fmt: FP8Format, scale: float | Tensor) -> None:
        if fmt.width <= 8:
            self._counts[layer, role] = code_histogram(x, fmt, scale)

    def histograms(self) -> dict[str, list[list[int]]]:
        """Per role the counts of each layer by code, the NaN bin last; an empty list where none was taken."""
        found: dict[str, list[list[int]]] = {}
        for index, role in enumerate(OPERAND_ROLES):
            if any(key[1] == index for key in self._counts):
                rows = [self._counts.get((layer, index)) for layer in range(self._layers)]
                found[role] = [[] if row is None else row.tolist() for row in rows]
        return found
