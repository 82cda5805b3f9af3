"""The traced step is the step: equal bits, every tensor seen, in execution order."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch

from altgrad_cli.checkpoints.payload import Phase, TraceRecord, to_plain
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.training.passes.eager import run_pass
from altgrad_cli.training.state import TrainState, fingerprint
from altgrad_cli.training.step import compute_step
from altgrad_cli.training.tracing import record_of, trace_step
from altgrad_cli.training.update import candidate_update
from tests.training.states import gpt_state

Tiny = Callable[..., TrainConfig]


def batch() -> Batch:
    tokens = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(1))
    return Batch(x=tokens[:, :-1].contiguous(), y=tokens[:, 1:].contiguous(), offsets=(0, 1, 2, 3))


def built(tiny: Tiny, *overrides: str) -> TrainState:
    return gpt_state(tiny("fp8_format=E4M3", "model.dropout=0.1", *overrides))


@pytest.mark.parametrize("regime", ["fp32", "bf16", "standard", "uniform", "frozen", "postln"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic_all"])
def test_tracing_changes_nothing(tiny: Tiny, regime: str, rounding: str) -> None:
    state = built(tiny, f"precision.regime={regime}", f"precision.rounding={rounding}")
    plain = run_pass(state, batch())
    update = candidate_update(state, plain.gradient, 1e-3)
    traced = trace_step(state, batch(), learning_rate=1e-3).step
    assert torch.equal(traced.result.loss, plain.loss)
    assert torch.equal(traced.result.gradient, plain.gradient)
    assert traced.update is not None
    assert traced.update.finite and update.finite
    assert torch.equal(traced.update.unrounded, update.unrounded)
    assert (traced.update.rounded is None) == (update.rounded is None)
    if traced.update.rounded is not None and update.rounded is not None:
        assert torch.equal(traced.update.rounded, update.rounded)


@pytest.mark.parametrize("format", ["E4M3", "MXFP4", "E4M3@8x8", "E4M3 precision.hadamard=16"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic_gradients", "stochastic_all"])
def test_rounded_operands_are_those_of_the_step(tiny: Tiny, rounding: str, format: str) -> None:
    """The trace rounds a second time beside the pass: the weights that the pass kept are the oracle."""
    state = built(
        tiny, "precision.regime=standard", f"precision.rounding={rounding}", *f"fp8_format={format}".split()
    )
    traced = trace_step(state, batch())
    rounded = {
        record.module: record.hash
        for record in traced.records
        if record.role == "weights" and record.part == "rounded"
    }
    assert len(rounded) == len(state.layers)
    for layer, tensor in traced.step.result.rounded_weights.items():
        assert rounded[state.layer_names[layer]] == fingerprint(tensor)


def test_records_stand_in_execution_order(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=standard")
    records = trace_step(state, batch(), learning_rate=1e-3).records
    phases = [get_args(Phase).index(record.phase) for record in records]
    assert phases == sorted(phases)
    order = [record.module for record in records if record.role == "activations" and record.part == "input"]
    assert order == state.layer_names
    backward = [record.module for record in records if record.role == "gradients" and record.part == "input"]
    assert backward == state.layer_names[::-1]
    loss = next(n for n, record in enumerate(records) if record.role == "loss")
    assert records[loss - 1].phase == "forward"
    assert records[loss + 1].phase == "backward"


def test_every_parameter_is_seen_before_and_after(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=uniform")
    records = trace_step(state, batch(), learning_rate=1e-3).records
    for phase, role in (
        ("state", "stored_weights"),
        ("backward", "weight_gradient"),
        ("optimizer", "stored_weights"),
    ):
        modules = {record.module for record in records if (record.phase, record.role) == (phase, role)}
        assert len(modules) == len(state.flat.names), (phase, role)


def test_a_record_keeps_nonfinite_values_apart() -> None:
    tensor = torch.tensor([1.0, -3.0, torch.nan, torch.inf])
    record = record_of(tensor, phase="forward", module="m", role="output")
    assert (record.amax, record.mean, record.nonfinite, record.index) == (3.0, -1.0, 2, 2)
    assert record.value != record.value


def test_what_is_rounded_to_inf_keeps_the_value_before(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E5M2", "precision.regime=standard", "precision.overflow=ieee"))
    for row in state.scales.histories[:3]:
        assert row[1] is not None
        row[1].values = [1e-6]
    records = trace_step(state, batch()).records
    first = next(record for record in records if record.nonfinite)
    assert (first.role, first.part, first.module) == ("activations", "rounded", state.layer_names[0])
    assert first.before is not None and first.scale is not None
    assert abs(first.before / first.scale) >= 61440
    assert first.value in (torch.inf, -torch.inf)


def test_a_payload_gives_the_records_back(tiny: Tiny) -> None:
    state = built(tiny)
    records = trace_step(state, batch(), learning_rate=1e-3).records
    assert tuple(TraceRecord(**record) for record in to_plain(records)) == records


def test_the_clip_is_torch_s(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=standard", "optimizer.gradient_clip=0.05")
    unclipped = run_pass(state, batch(), out=state.flat.gradient).gradient.clone()
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 0.05)
    assert not torch.equal(state.flat.gradient, unclipped)
    assert torch.equal(compute_step(state, batch()).result.gradient, state.flat.gradient)
