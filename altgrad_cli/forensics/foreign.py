"""What can be said of tensors that altgrad did not write: values, and the grid they would be put on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from altgrad_cli.checkpoints.foreign import ForeignTensors
from altgrad_cli.checkpoints.named_tensors import NamedTensor, distinct_names, exact_values
from altgrad_cli.forensics.document import Finding, LeftOut, Severity, TensorRow
from altgrad_cli.forensics.layer_table import weight_measures
from altgrad_cli.formats import FP8Format
from altgrad_cli.rounding.grid import stored_grid
from altgrad_cli.rounding.scaling import finite_part

FLOAT32_MAX = torch.finfo(torch.float32).max


def describe_tensors(foreign: ForeignTensors, fmt: FP8Format | None) -> list[TensorRow]:
    """One row a tensor that can be judged, worst first; grid measures only with a format.

    What is counted is counted in the tensor's own type. The grid takes real values within float32's range.
    """
    rows = [
        _row(name, entry, fmt)
        for name, entry in zip(distinct_names(foreign.tensors), foreign.tensors, strict=True)
        if entry.why_not_judged() is None
    ]
    return sorted(
        rows, key=lambda row: (row.nonfinite_weights, row.grid.rounded_to_zero or 0.0), reverse=True
    )


def not_judged(foreign: ForeignTensors) -> tuple[LeftOut, ...]:
    """The tensors that ``describe_tensors`` leaves out, each with the reason."""
    return tuple(
        LeftOut(name, tuple(entry.shape), entry.dtype, reason)
        for name, entry in zip(distinct_names(foreign.tensors), foreign.tensors, strict=True)
        if (reason := entry.why_not_judged()) is not None
    )


def foreign_findings(
    foreign: ForeignTensors,
    rows: Sequence[TensorRow],
    left_out: Sequence[LeftOut],
    *,
    judged_on_grid: bool,
) -> Iterator[Finding]:
    """What a reader of the values should know, most important first."""
    bad = sum(row.nonfinite_weights for row in rows)
    if bad:
        yield Finding("failure", f"{bad} non-finite values, most of them in {rows[0].name}")
    if not rows:
        yield Finding("warning", f"nothing to judge: all {len(left_out)} tensors are left out")
    for row in rows:
        if row.amax > FLOAT32_MAX:
            words = f"{row.name}: amax {row.amax:.4g} is finite, and beyond float32 ({FLOAT32_MAX:.4g})"
            yield Finding("warning", f"{words}, so no grid is measured: a float32 carrier would hold inf")
    if foreign.names_schema:
        words = (
            "it has altgrad's schema and not altgrad's seal: changed, cut or saved again by another program"
        )
        yield Finding("warning", words)
    for reason in dict.fromkeys(entry.reason for entry in left_out):
        names = [entry.name for entry in left_out if entry.reason == reason]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        tensors = "tensor" if len(names) == 1 else "tensors"
        severity: Severity = "note" if reason in ("no values", "no floating-point values") else "warning"
        words = f"{len(names)} {tensors} not judged ({reason}): {', '.join(names[:4])}{more}"
        yield Finding(severity, words)
    yield Finding("note", f"a {foreign.kind}: only its values are known, not how they came about")
    if not judged_on_grid:
        yield Finding("note", "--format NAME adds stiffness, alignment and code use")


def _row(name: str, entry: NamedTensor, fmt: FP8Format | None) -> TensorRow:
    values = None if entry.tensor is None else exact_values(entry.tensor)
    assert values is not None
    finite = torch.isfinite(values)
    bad = int((~finite).sum())
    amax = float(torch.where(finite, values, 0.0).abs().max())
    on_grid = fmt is not None and not values.is_complex() and amax <= FLOAT32_MAX
    grid = stored_grid(fmt) if fmt is not None and on_grid else None
    scales = None if grid is None else grid.stored_scales(finite_part(values), amax=amax)
    measures = weight_measures(values.float() if on_grid else values, grid, scales)
    if measures.rounded_to_zero is not None and values.dtype == torch.float64:
        # What float32 cannot hold at all was rounded to 0 as well.
        nonzero = int((values[finite] != 0).sum())
        carried = int((values[finite].float() != 0).sum())
        kept = (1 - measures.rounded_to_zero) * carried
        measures = replace(measures, rounded_to_zero=1 - kept / nonzero if nonzero else 0.0)
    return TensorRow(
        name=name,
        shape=tuple(entry.shape),
        dtype=entry.dtype,
        nonfinite_weights=bad,
        first_nonfinite_index=int((~finite).flatten().nonzero()[0]) if bad else None,
        amax=amax,
        zero_share=float((values == 0).double().mean()),
        format=None if fmt is None else fmt.describe(),
        scale=None if grid is None or scales is None else grid.scale_at(scales, values.shape, None),
        grid=measures,
    )
