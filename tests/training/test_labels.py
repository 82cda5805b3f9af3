"""The second task through the engine: no assumption of a next token is left in it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from altgrad_cli.checkpoints.file import VerifiedCheckpoint, content_hash, read_checkpoint
from altgrad_cli.config.loading import from_plain, resolve
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError, ConfigError
from altgrad_cli.runs.record import build_record
from altgrad_cli.subjects.built_in import load_subject
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import (
    CheckpointSaved,
    Evaluated,
    RunEnded,
    StepCompleted,
    event_from_json,
    event_to_json,
)
from tests.small import LABELS, small
from tests.training.test_subject import without_times

Tiny = Callable[..., TrainConfig]


def test_a_configuration_without_the_field_is_of_the_gpt() -> None:
    plain = {key: value for key, value in resolve(small()).items() if key != "subject"}
    assert from_plain(plain) == small()
    with pytest.raises(ConfigError, match="eurovock") as refused:
        small("subject=eurovock")
    assert "gpt, eurovoc" in str(refused.value.allowed)


@pytest.mark.parametrize("regime", ["fp32", "standard", "uniform", "frozen", "postln"])
def test_measuring_changes_nothing_and_the_loss_falls(regime: str) -> None:
    settings = (*LABELS, f"precision.regime={regime}", "fp8_format=E3M4", "model.dropout=0.1")
    longer = ("max_steps=40", "learning_rate=5e-3")
    watched = list(train(small(*settings, *longer)))
    alone = list(train(small(*settings, *longer, "monitors.enabled=false", "use_shadow=false")))
    losses = [[e.metrics["loss"] for e in run if isinstance(e, StepCompleted)] for run in (watched, alone)]
    assert losses[0] == losses[1]
    assert losses[0][0] == pytest.approx(math.log(2), abs=0.02)
    evaluated = [event for event in watched if isinstance(event, Evaluated)]
    assert evaluated[-1].validation_loss < 0.8 * evaluated[0].validation_loss
    for event in evaluated:
        assert event.perplexity is None and list(event.scores) == ["micro_f1", "macro_f1"]
        assert all(0 <= score <= 1 for score in event.scores.values())
        assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event
    record = build_record(Path("run"), [event_to_json(event) for event in watched])
    assert list(record.series("micro_f1")) == [(e.step, e.scores["micro_f1"]) for e in evaluated]


def test_the_gpt_has_a_perplexity_and_no_scores() -> None:
    event = next(event for event in train(small("max_steps=1")) if isinstance(event, Evaluated))
    assert event.perplexity is not None and event.scores == {}


@pytest.mark.parametrize("rounding", ["nearest", "stochastic_all"])
def test_it_resumes_bit_for_bit(tmp_path: Path, rounding: str) -> None:
    config = small(*LABELS, "fp8_format=E4M3", f"precision.rounding={rounding}", "model.dropout=0.1")
    whole = list(train(config, run_dir=tmp_path / "whole"))
    saved = VerifiedCheckpoint.read(tmp_path / "whole/checkpoints/step_000006.pt")
    rest = list(train(config, run_dir=tmp_path / "rest", resume_from=saved))
    _, *again = without_times(rest)
    assert again == without_times(whole)[-len(again) :] and len(again) >= 4
    ends = [tmp_path / name / "checkpoints/step_000008.pt" for name in ("whole", "rest")]
    assert len({content_hash(read_checkpoint(path)) for path in ends}) == 1


def test_it_does_not_go_on_with_other_labels(tmp_path: Path) -> None:
    config = small(*LABELS)
    list(train(config, run_dir=tmp_path))
    text = (
        Path(str(config.data.path))
        .read_text("utf-8")
        .replace('"kite"]', '"Kite"]')
        .replace('"kite",', '"K",')
    )
    (tmp_path / "other.jsonl").write_text(text, "utf-8")
    other = small(*LABELS, f"data.path={tmp_path / 'other.jsonl'}")
    saved = VerifiedCheckpoint.read(tmp_path / "checkpoints/step_000006.pt")
    with pytest.raises(CheckpointError, match="another corpus"):
        next(train(other, resume_from=saved))


@pytest.mark.parametrize("fault", ["nan@3:data", "inf@3:label_head:gradients", "spike@3:label_head:weights"])
def test_a_planted_fault_is_captured_where_it_struck(tmp_path: Path, fault: str) -> None:
    config = small(*LABELS, "precision.regime=standard", "nan_policy=first", f"inject=[{fault}]")
    events = list(train(config, run_dir=tmp_path))
    saved = [event for event in events if isinstance(event, CheckpointSaved) and "anomaly" in str(event.path)]
    if fault.startswith("spike"):
        assert not saved  # finite, and so it is carried on with
        return
    assert isinstance(events[-1], RunEnded) and events[-1].outcome == "collapsed"
    where = "label_head" if "label_head" in fault else "wte"
    assert where in events[-1].reason and "from step 3" in events[-1].reason
    payload = read_checkpoint(tmp_path / str(saved[0].path))
    assert payload["batch"]["y"].dtype == torch.float32 and len(payload["batch"]["offsets"]) == 4
    assert not payload["missing"]


def test_a_flipped_token_stays_in_the_vocabulary_and_padding_stays_padding() -> None:
    for seed in range(6):
        ended = list(train(small(*LABELS, "model.block_size=64", f"seed={seed}", "inject=[bitflip@2:data]")))[
            -1
        ]
        assert isinstance(ended, RunEnded) and ended.outcome == "completed"


def test_its_batches_are_documents_by_number() -> None:
    subject = load_subject(small(*LABELS))
    assert subject.train is not None
    first, again = (subject.train(torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.offsets == again.offsets and torch.equal(first.y, again.y)
