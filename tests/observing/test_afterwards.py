"""What is said of an observed loop when it is over: nothing of it is altgrad's to begin again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from altgrad_cli import observe
from altgrad_cli.errors import CheckpointError, UsageError
from altgrad_cli.forensics.diagnosis import Questions, diagnose
from altgrad_cli.forensics.document import Diagnosis
from altgrad_cli.reporting.render.markdown import to_markdown
from altgrad_cli.reporting.report import build_report
from altgrad_cli.runs.folder import RunDirectory
from altgrad_cli.runs.resumption import plan_resumption
from tests.observing import planted
from tests.observing.loops import network, plain_loop

CNN = f"{planted.__file__}:cnn"


def observed_cnn(run: Path, *, subject: str | None) -> Path:
    """The capture of a step that is not finite, of a loop that goes on after it."""
    own = planted.cnn(None)
    model = planted.build_cnn(torch.Generator())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert own.train is not None
    settings = ["inject=['nan@2:second:gradients']", "runtime.checkpoint_interval=1"]
    with observe(
        model, optimizer, run_dir=run, subject=subject, nan_policy="drop", settings=settings, live=True
    ):
        for step in range(3):
            given = own.train(torch.Generator().manual_seed(step))
            own.loss(model(given.x), given.y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return run / "checkpoints" / "anomaly_step_2.pt"


def test_a_model_that_nobody_named_is_asked_for(tmp_path: Path) -> None:
    capture = observed_cnn(tmp_path / "run", subject=None)
    for named in (None, "observed"):
        with pytest.raises(UsageError, match="loop of one's own") as error:
            diagnose(capture, Questions(subject=named))
        assert error.value.hint == "add: --subject MODULE:FUNCTION"
    found = diagnose(capture, Questions(subject=CNN, replay=True))
    assert isinstance(found, Diagnosis) and found.first_nonfinite is not None
    assert found.first_nonfinite.module == "second"


def test_altgrad_does_not_go_on_with_it(tmp_path: Path) -> None:
    capture = observed_cnn(tmp_path / "run", subject=CNN)
    with pytest.raises(CheckpointError, match="only that loop can go on") as error:
        plan_resumption(RunDirectory(tmp_path / "run"), overrides=["fp8_format=e3m4"])
    assert error.value.hint
    found = diagnose(capture, Questions(subject=CNN))
    assert isinstance(found, Diagnosis) and found.next is not None
    assert "train" not in found.next.command


def test_its_report_claims_no_seed_and_no_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    observed_cnn(tmp_path / "run", subject=None)
    said = to_markdown(build_report([tmp_path / "run"]), None)
    assert "steps of an observed loop" in said and "given the step as a closure" in said
    assert "One seed" not in said and "1,000,000,000" not in said and "altgrad train" not in said
    lines = capsys.readouterr().err
    assert "step 1, loss" in lines and "1000000000" not in lines


def test_what_is_rounded_is_a_table_in_print() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with observe(model, optimizer, rules=[("2", "fp32")]) as lab:
        plain_loop(model, optimizer, 1)
        first, second = str(lab.coverage()).splitlines()
    whole, left = 6 * (8 * 16 + 16 * 16 + 16 * 4), 6 * 16 * 16
    assert first == f"{1 - left / whole:.2%} of {whole:,} multiply-adds are rounded"
    assert second.split()[:2] == [f"{left / whole:.2%}", "2:"]
