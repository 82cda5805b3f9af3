"""All parameters in one buffer, so that an update or a norm is a few passes and not a loop over tensors.

Order: the blocks' linear weights (as the model lists them), the other matrices, the vectors. So the stored
weights, what the frozen control leaves alone and what weight decay acts on are each one slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from altgrad_cli.errors import CheckpointError
from altgrad_cli.metrics.layer_sums import FlatLayout


@dataclass(frozen=True, slots=True)
class FlatParameters:
    """Views of one float32 buffer in the order above."""

    values: Tensor
    gradient: Tensor
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bounds: tuple[int, ...]
    """Start of each parameter, and the end of the last."""
    linear_count: int
    """How many of the parameters are linear weights of the blocks."""
    matrix_end: int
    """Where the matrices end: weight decay acts before it."""
    model_order: tuple[int, ...]
    """Number of each of the model's parameters, as the model lists them."""

    @property
    def linear_end(self) -> int:
        """Where the blocks' linear weights end."""
        return self.bounds[self.linear_count]

    def layout(self, *, blocks_only: bool) -> FlatLayout:
        """Where the blocks' linear weights lie, or all parameters (a vector is one row)."""
        shapes = self.shapes[: self.linear_count] if blocks_only else self.shapes
        return _layout(shapes, self.values.device)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """``buffer`` (aligned with ``values``) cut into one tensor a parameter, in its shape."""
        return [
            buffer[start:end].view(shape)
            for start, end, shape in zip(self.bounds, self.bounds[1:], self.shapes, strict=False)
        ]

    def model_views(self, buffer: Tensor) -> list[Tensor]:
        """The same in the model's own order, in which torch adds up a norm."""
        views = self.views(buffer)
        return [views[number] for number in self.model_order]

    def linear_views(self, buffer: Tensor) -> list[Tensor]:
        """The same for the blocks' linear weights only."""
        bounds, shapes = self.bounds, self.shapes[: self.linear_count]
        return [buffer[bounds[i] : bounds[i + 1]].view(shape) for i, shape in enumerate(shapes)]

    def named(self, buffer: Tensor) -> dict[str, Tensor]:
        """``buffer`` cut likewise, by the name of the parameter."""
        return dict(zip(self.names, self.views(buffer), strict=True))

    def fill(self, buffer: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``named``: copy ``tensors`` into ``buffer``.

        Raises:
            CheckpointError: other names, shapes or types than the parameters have.
        """
        if set(tensors) != set(self.names):
            raise CheckpointError("the checkpoint is of another network: its parameters have other names")
        for name, view in self.named(buffer).items():
            if tensors[name].shape != view.shape or tensors[name].dtype != view.dtype:
                raise CheckpointError(f"the checkpoint is of another network: {name} has another shape")
            view.copy_(tensors[name])


@lru_cache(maxsize=8)
def _layout(shapes: tuple[tuple[int, ...], ...], device: torch.device) -> FlatLayout:
    return FlatLayout([shape if len(shape) > 1 else (1, *shape) for shape in shapes], device=device)


def flatten(model: nn.Module, linear_names: Sequence[str]) -> FlatParameters:
    """Move the parameters of ``model`` into one buffer; their ``.data`` and ``.grad`` become views of it."""
    parameters = dict(model.named_parameters())
    linear = [f"{name}.weight" for name in linear_names if f"{name}.weight" in parameters]
    rest = [name for name in parameters if name not in set(linear)]
    matrices = [name for name in rest if parameters[name].dim() >= 2]
    vectors = [name for name in rest if parameters[name].dim() < 2]
    order = [*linear, *matrices, *vectors]
    bounds = [0]
    for name in order:
        bounds.append(bounds[-1] + parameters[name].numel())
    values = torch.cat([parameters[name].detach().reshape(-1) for name in order])
    flat = FlatParameters(
        values=values,
        gradient=torch.zeros_like(values),
        names=tuple(order),
        shapes=tuple(tuple(parameters[name].shape) for name in order),
        bounds=tuple(bounds),
        linear_count=len(linear),
        matrix_end=bounds[len(linear) + len(matrices)],
        model_order=tuple(map(order.index, parameters)),
    )
    for name, value, gradient in zip(order, flat.views(values), flat.views(flat.gradient), strict=True):
        parameters[name].data = value
        parameters[name].grad = gradient
    return flat


def largest_magnitude(x: Tensor) -> Tensor:
    """max |x|, 0-d; NaN where there is one, 0 of nothing. A twentieth of the time of the infinity norm."""
    if x.numel() == 0:
        return x.new_zeros(())
    low, high = torch.aminmax(x)
    return torch.maximum(-low, high)
