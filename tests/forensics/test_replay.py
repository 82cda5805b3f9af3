"""A replay in a new process gives every recorded hash again; a change of any input is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from altgrad_cli.checkpoints.file import read_checkpoint, write_checkpoint
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from altgrad_cli.forensics.step_again.replay import Replay, replay
from altgrad_cli.training.passes import eager
from tests.forensics.conftest import Capture, captured

SETTINGS = (
    "precision.regime=uniform",
    "fp8_format=E5M2",
    "precision.rounding=stochastic_all",
    "model.dropout=0.1",
    "inject=nan@3:blocks.1.mlp.c_fc:gradients",
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One anomaly checkpoint for all tests that alter a copy of it."""
    folder = tmp_path_factory.mktemp("recorded")
    return captured(folder, *SETTINGS)


def replayed(path: Path, threads: int | None = None) -> Replay:
    evidence = open_checkpoint(path)
    assert isinstance(evidence, OpenedCheckpoint)
    return replay(evidence, threads)


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy with a part of the state changed, sealed and hashed as if it had been written so."""
    payload = read_checkpoint(path)
    change(payload)
    copy = path.with_name("altered.pt")
    copy.unlink(missing_ok=True)
    write_checkpoint(copy, payload)
    return copy


def test_every_hash_is_reproduced(recorded: Path) -> None:
    result = replayed(recorded)
    assert result.ran
    assert result.bit_exact is True
    assert result.compared > 250
    assert result.first_difference is None


@pytest.mark.parametrize("regime", ["bf16", "standard", "frozen", "postln"])
def test_every_regime_is_reproduced(capture: Capture, regime: str) -> None:
    path = capture(f"precision.regime={regime}", "runtime.capture_at=3", "optimizer.gradient_clip=0.1")
    assert replayed(path).bit_exact is True


@pytest.mark.parametrize("rule", ["compensated", "code_step", "torch.optim.Adafactor"])
def test_every_update_rule_is_reproduced(capture: Capture, rule: str) -> None:
    path = capture(f"optimizer.rule={rule}", "fp8_format=E7M0", "runtime.capture_at=3")
    assert replayed(path).bit_exact is True


@pytest.mark.parametrize("format", ["NVFP4", "MXFP8_E4M3:rceil"])
def test_a_step_in_blocks_is_reproduced(capture: Capture, format: str) -> None:
    settings = "precision.regime=standard", "precision.rounding=stochastic_all", "runtime.capture_at=3"
    assert replayed(capture(f"fp8_format={format}", *settings)).bit_exact is True


def test_a_replay_of_a_compiled_run_says_that_it_is_of_the_eager_form(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "find_pass", lambda *arguments: None)  # spares the test the compiler
    result = replayed(capture("runtime.compile=true", "runtime.capture_at=3"))
    assert result.compiled
    assert result.bit_exact is True


def test_a_range_clipped_step_is_reproduced(capture: Capture) -> None:
    path = capture(
        "precision.regime=standard",
        "fp8_format=E3M4",
        "enable_partition_clipping=true",
        "inject=amax@3:blocks.1.mlp.c_fc:activations",
        "runtime.capture_at=3",
    )
    assert replayed(path).bit_exact is True


def _other_stream(purpose: str) -> Callable[[dict[str, Any]], object]:
    other = torch.Generator().manual_seed(99).get_state()
    return lambda payload: payload["streams"].update({purpose: other})


def _other_amax(payload: dict[str, Any]) -> None:
    history = payload["quantizers"][3]["roles"]["activations"]["history"]
    history[-1] *= 64.0


def _other_batch(payload: dict[str, Any]) -> None:
    payload["batch"]["x"][0, 0] ^= 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_other_stream("dropout"), "random stream dropout"),
        (_other_stream("rounding_operands"), "random stream rounding_operands"),
        (_other_stream("rounding_update"), "random stream rounding_update"),
        (_other_amax, "amax history of blocks.0.mlp.c_proj (activations)"),
        (_other_batch, "batch"),
    ],
)
def test_what_was_altered_is_named(
    recorded: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    result = replayed(altered(recorded, change))
    assert result.bit_exact is False
    assert result.different_inputs == (named,)
    assert result.first_difference is not None
    assert result.first_difference.cause == f"the step was given another {named}"


def _other_hash(payload: dict[str, Any]) -> None:
    record = next(r for r in payload["trace"] if r["phase"] == "forward")
    record["hash"] = "0" * 16


def test_other_threads_are_named(recorded: Path) -> None:
    """Two threads may give the same bits; a hash that none gives makes the difference certain."""
    result = replayed(altered(recorded, _other_hash), threads=2)
    assert result.environment_differences == {"threads": {"recorded": 1, "replayed": 2}}
    assert result.different_inputs == ()
    assert result.first_difference is not None
    assert "threads" in result.first_difference.cause


def test_a_recorded_environment_is_compared(recorded: Path) -> None:
    path = altered(recorded, lambda payload: payload["environment"].update({"torch": "0.4.1"}))
    assert replayed(path).environment_differences["torch"]["recorded"] == "0.4.1"


def test_a_changed_trace_is_a_difference_without_a_known_cause(recorded: Path) -> None:
    result = replayed(altered(recorded, _other_hash))
    assert result.first_difference is not None
    assert result.first_difference.phase == "forward"
    assert result.first_difference.cause == "unknown: all inputs are as recorded"


def test_without_a_trace_there_is_nothing_to_compare(recorded: Path) -> None:
    result = replayed(altered(recorded, lambda payload: payload.pop("trace")))
    assert not result.ran
    assert result.reason is not None and "no trace" in result.reason
