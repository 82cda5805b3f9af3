"""The engine's promises: determinism, measuring without touching, the order in the step, honest records."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.gradient import SHADOW_METRICS
from altgrad_cli.subjects.built_in import load_subject
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.training import engine, step
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import (
    Evaluated,
    Event,
    InterventionApplied,
    RunEnded,
    RunStarted,
    StepCompleted,
    event_from_json,
    event_to_json,
)

Tiny = Callable[..., TrainConfig]
REGIMES = ("fp32", "bf16", "standard", "uniform", "frozen", "postln")
VOLATILE = "tokens_per_second"


def losses(events: list[Event]) -> list[float]:
    return [event.metrics["loss"] for event in events if isinstance(event, StepCompleted)]


def validation(events: list[Event]) -> list[float]:
    return [event.validation_loss for event in events if isinstance(event, Evaluated)]


def comparable(event: Event) -> dict:
    line = event_to_json(event)
    line.get("metrics", {}).pop(VOLATILE, None)
    line.pop("environment", None)
    return line


@pytest.mark.parametrize("rounding", ["nearest", "stochastic_all"])
def test_two_runs_of_one_config_are_equal_event_by_event(tiny: Tiny, rounding: str) -> None:
    config = tiny("fp8_format=E3M4", f"precision.rounding={rounding}", "model.dropout=0.1")
    first, second = list(train(config)), list(train(config))
    assert [comparable(e) for e in first] == [comparable(e) for e in second]
    assert losses(first) != losses(list(train(tiny("fp8_format=E3M4", "seed=43", "model.dropout=0.1"))))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("recipe", ["none", "amax", "delayed"])
def test_measuring_never_changes_training(tiny: Tiny, regime: str, recipe: str) -> None:
    base = ("fp8_format=E4M3", f"precision.regime={regime}", f"precision.scaling.recipe={recipe}")
    everything = ("log_stiffness=true", "log_grid_alignment=true", "log_ulp=true", "use_shadow=true")
    on = list(train(tiny(*base, *everything, "model.dropout=0.1", "precision.rounding=stochastic_all")))
    off = list(
        train(tiny(*base, "monitors.enabled=false", "model.dropout=0.1", "precision.rounding=stochastic_all"))
    )
    assert losses(on) == losses(off)
    assert validation(on) == validation(off)
    measured = [event for event in on if isinstance(event, StepCompleted)]
    assert "gradient_norm" in measured[0].metrics
    assert "gradient_norm" not in next(e for e in off if isinstance(e, StepCompleted)).metrics


@pytest.mark.parametrize("stochastic", ["nearest", "stochastic_all"])
def test_a_shadow_every_third_step_is_that_of_every_step_where_it_is_taken(
    tiny: Tiny, stochastic: str
) -> None:
    settings = ("fp8_format=E3M4", f"precision.rounding={stochastic}", "model.dropout=0.1", "use_shadow=true")
    every, third = (
        [
            event
            for event in train(tiny(*settings, f"shadow_interval={n}"))
            if isinstance(event, StepCompleted)
        ]
        for n in (1, 3)
    )
    names = {spec.name for spec in SHADOW_METRICS}
    assert len(every) == len(third) == 8
    for measured, sparse in zip(every, third, strict=True):
        assert names & set(measured.metrics)
        if measured.step % 3:
            assert not names & (set(sparse.metrics) | set(sparse.layers))
            measured = replace(
                measured,
                metrics={name: value for name, value in measured.metrics.items() if name not in names},
                layers={name: value for name, value in measured.layers.items() if name not in names},
            )
        assert comparable(measured) == comparable(sparse)


def test_formats_of_one_seed_share_init_and_batches(tiny: Tiny) -> None:
    seen: dict[str, list[tuple[int, ...]]] = {}
    hashes = {}
    for fmt in ("E5M2", "E7M0"):
        config, drawn = tiny(f"fp8_format={fmt}"), []
        subject = load_subject(config)

        def recorded(generator: torch.Generator, draw=subject.train, offsets=drawn) -> Batch:
            batch = draw(generator)
            offsets.append(batch.offsets)
            return batch

        started, *_ = train(config, subject=replace(subject, train=recorded))
        hashes[fmt], seen[fmt] = started.init_hash, drawn
    assert hashes["E5M2"] == hashes["E7M0"]
    assert seen["E5M2"] == seen["E7M0"]
    assert len(set(seen["E5M2"])) >= 6, "a run draws one batch after another"


def test_the_clip_happens_between_backward_and_update(tiny: Tiny) -> None:
    """With SGD-like sensitivity: a clip after the update would leave the first step's weights unclipped.

    Adam hides a uniform scale, but eps does not: with eps far above the gradient the update is proportional
    to it, so a binding clip must shrink the very step it acts in.
    """
    common = ("precision.regime=fp32", "optimizer.eps=10", "optimizer.weight_decay=0", "max_steps=1")
    plain = weights_after(tiny(*common))
    clipped = weights_after(tiny(*common, "optimizer.gradient_clip=1e-3"))
    start = weights_after(tiny(*common, "learning_rate=1e-30"))
    ratio = float((clipped - start).norm() / (plain - start).norm())
    assert 0 < ratio < 0.05, "the gradient was clipped to a thousandth, the first update was not"


def test_the_order_test_can_fail(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measurement with the clip moved behind the update sees no effect."""
    common = ("precision.regime=fp32", "optimizer.eps=10", "optimizer.weight_decay=0", "max_steps=1")
    start = weights_after(tiny(*common, "learning_rate=1e-30"))
    plain = weights_after(tiny(*common))
    real_clip, real_commit, late_clips = step.scale_to_norm, step.commit, []
    monkeypatch.setattr(step, "scale_to_norm", lambda gradients, limit: 0.0)

    def commit_then_clip(state, update):
        real_commit(state, update)
        late_clips.append(real_clip(state.flat.model_views(state.flat.gradient), 1e-3))

    monkeypatch.setattr(step, "commit", commit_then_clip)
    late = weights_after(tiny(*common, "optimizer.gradient_clip=1e-3"))
    assert float((late - start).norm() / (plain - start).norm()) == pytest.approx(1.0)
    assert late_clips[0] > 1e-3, "the limit would have bound"


def weights_after(config: TrainConfig) -> torch.Tensor:
    """Flat weights at the end of a run."""
    states = []
    real = engine.build_state

    def spy(*args):
        states.append(real(*args))
        return states[-1]

    engine.build_state = spy
    try:
        list(train(config))
    finally:
        engine.build_state = real
    return states[-1].flat.values.clone()


def test_frozen_moves_nothing_but_embeddings_and_gains(tiny: Tiny) -> None:
    events = list(train(tiny("precision.regime=frozen")))
    start = weights_after(tiny("precision.regime=frozen", "max_steps=1", "learning_rate=1e-30"))
    end = weights_after(tiny("precision.regime=frozen"))
    blocks = 2 * 12 * 32 * 32  # n_layer blocks of 12 d^2 weights
    assert torch.equal(start[:blocks], end[:blocks])
    assert not torch.equal(start[blocks:], end[blocks:])
    assert losses(events)[-1] < losses(events)[0]


@pytest.mark.parametrize("regime", ["fp32", "standard"])
def test_master_validation_is_measured_only_where_a_master_exists(tiny: Tiny, regime: str) -> None:
    evaluated = [e for e in train(tiny(f"precision.regime={regime}")) if isinstance(e, Evaluated)]
    assert [e.step for e in evaluated] == [0, 4, 8]
    for event in evaluated:
        assert (event.validation_loss_master is None) == (regime == "fp32")
    uniform = [e for e in train(tiny("precision.regime=uniform")) if isinstance(e, Evaluated)]
    assert [e.validation_loss_master for e in uniform] == [None] * 3


def test_every_event_survives_its_json(tiny: Tiny) -> None:
    lines = [event_to_json(event) for event in train(tiny("fp8_format=E7M0", "log_ulp=true"))]
    assert {"run_started", "step", "evaluated", "run_ended"} <= {line["event"] for line in lines}
    assert [event_to_json(event_from_json(line)) for line in lines] == lines


def test_uniform_e0m7_and_e1m6_are_one_experiment(tiny: Tiny) -> None:
    """E1M6 = 4 x E0M7: under power-of-two scales the two runs are bit-identical, amax and delayed alike."""
    for recipe in ("amax", "delayed"):
        one, other = (
            list(train(tiny(f"fp8_format={fmt}", f"precision.scaling.recipe={recipe}", "max_steps=20")))
            for fmt in ("E0M7", "E1M6")
        )
        assert losses(one) == losses(other)
        assert validation(one) == validation(other)
    assert losses(one) != losses(list(train(tiny("fp8_format=E3M4", "max_steps=20"))))


def test_the_last_event_says_how_it_ended(tiny: Tiny) -> None:
    events = list(train(tiny()))
    assert isinstance(events[-1], RunEnded)
    assert (events[-1].outcome, events[-1].step) == ("completed", 8)
    assert [e.step for e in events if isinstance(e, StepCompleted)] == list(range(1, 9))


def test_three_nans_in_a_row_shift_and_the_record_keeps_both_formats(tiny: Tiny) -> None:
    place = "blocks.1.mlp.c_fc:activations"
    config = tiny(
        "fp8_format=E7M0",
        "enable_emergency_shift=true",
        "emergency_shift_stall_threshold=1.0",
        "max_steps=9",
        f"inject=[nan@3:{place}, nan@4:{place}, nan@5:{place}]",
    )
    events = list(train(config))
    shifts = [e for e in events if isinstance(e, InterventionApplied) and e.name == "emergency_shift"]
    assert [(s.step, s.details["from"], s.details["to"], s.details["trigger"]) for s in shifts] == [
        (5, "E7M0", "E5M2", "nan")
    ]
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert [tuple(entry) for entry in ended.formats] == [(0, "E7M0"), (5, "E5M2")]
    steps = {e.step: e for e in events if isinstance(e, StepCompleted)}
    assert [n for n, e in steps.items() if not e.committed] == [3, 4, 5]
    assert steps[5].format == "E7M0"
    assert steps[6].format == "E5M2"


def test_nan_good_nan_nan_does_not_shift(tiny: Tiny) -> None:
    place = "blocks.1.mlp.c_fc:activations"
    config = tiny(
        "fp8_format=E7M0",
        "enable_emergency_shift=true",
        "emergency_shift_stall_threshold=1.0",
        "max_steps=9",
        f"inject=[nan@3:{place}, nan@5:{place}, nan@6:{place}]",
    )
    events = list(train(config))
    assert not [e for e in events if isinstance(e, InterventionApplied) and e.name == "emergency_shift"]
    assert events[-1].outcome == "completed"


def test_a_dropped_step_leaves_no_trace_in_the_weights(tiny: Tiny) -> None:
    """A run whose third step was dropped equals one in which the third batch was skipped."""
    place = "blocks.0.attn.c_attn:gradients"
    config = tiny("fp8_format=E5M2", "nan_policy=patience", "max_steps=3", f"inject=[nan@3:{place}]")
    assert torch.equal(weights_after(config), weights_after(tiny("fp8_format=E5M2", "max_steps=2")))


def test_the_first_nonfinite_step_ends_an_exotic_run(tiny: Tiny) -> None:
    config = tiny("fp8_format=E3M4", "inject=[inf@4:blocks.0.mlp.c_proj:gradients]")
    ended = list(train(config))[-1]
    assert isinstance(ended, RunEnded)
    assert (ended.outcome, ended.step) == ("collapsed", 4)
    assert ended.collapse == {"class": "nonfinite", "step": 4}
    assert "blocks.0.mlp.c_proj" in ended.reason
    assert "gradients" in ended.reason


def test_a_wrong_amax_history_overflows_and_the_clipper_acts_in_that_step(tiny: Tiny) -> None:
    config = tiny(
        "fp8_format=E5M2",
        "enable_partition_clipping=true",
        "partition_clip_base=1e-3",
        "max_steps=6",
        "inject=[amax@4:blocks.0.attn.c_attn:gradients]",
    )
    events = list(train(config))
    clips = [e for e in events if isinstance(e, InterventionApplied) and e.name == "range_clip"]
    assert next(c.step for c in clips) == 4
    assert clips[0].details["overflow_rate"] >= 0.01
    assert clips[0].details["bound"] is True
    rates = {e.step: e.layers["overflow_rate/gradients"][0] for e in events if isinstance(e, StepCompleted)}
    assert rates[4] >= 0.01
    assert rates[3] == 0


def test_overflow_is_zero_under_amax_scaling(tiny: Tiny) -> None:
    for fmt, regime in itertools.product(("E5M2", "E3M4", "E7M0"), ("standard", "uniform")):
        config = tiny(f"fp8_format={fmt}", f"precision.regime={regime}", "precision.scaling.recipe=amax")
        for event in train(config):
            if isinstance(event, StepCompleted):
                for role in ("activations", "gradients"):
                    assert event.metrics[f"overflow_rate/{role}"] == 0


@pytest.mark.parametrize("fmt", ["E0M7", "E1M6", "E2M5", "E3M4", "E4M3", "E5M2", "E6M1", "E7M0"])
def test_first_step_stall_is_what_was_predicted(tiny: Tiny, fmt: str) -> None:
    """At Adam's first step without decay |dw| = lr, so the stall follows from weights and grid alone."""
    config = tiny(f"fp8_format={fmt}", "max_steps=1", "optimizer.weight_decay=0", "learning_rate=6e-4")
    events = list(train(config))
    predicted = next(e for e in events if isinstance(e, RunStarted)).predicted_stall["first_step"]
    measured = next(e for e in events if isinstance(e, StepCompleted)).metrics["bit_stall_rate"]
    assert measured == pytest.approx(predicted, abs=0.02)


def test_optimizer_state_is_stored_on_the_grid_when_asked(tiny: Tiny) -> None:
    states = []
    real = engine.build_state
    engine.build_state = lambda *args: states.append(real(*args)) or states[-1]
    try:
        list(train(tiny("fp8_format=E4M3", "precision.regime=standard", "precision.roles=[optimizer_state]")))
    finally:
        engine.build_state = real
    state = states[0]
    m = state.flat.linear_views(state.optimizer.slots["m"])[0]
    codes = torch.unique((m / m.abs().max() * 448).float())
    assert codes.numel() <= 253, "more values than E4M3 has codes"
    assert torch.unique(state.flat.views(state.optimizer.slots["m"])[state.flat.linear_count]).numel() > 1000


def test_stored_weights_are_counted_code_by_code_on_diagnostic_steps(tiny: Tiny) -> None:
    steps = {e.step: e for e in train(tiny("fp8_format=E7M0")) if isinstance(e, StepCompleted)}
    assert not steps[1].histograms
    counts = steps[2].histograms["stored_weights"]
    assert [sum(row) for row in counts] == [32 * 96, 32 * 32, 32 * 128, 32 * 128] * 2 + [0]
    assert all(len(row) == 257 for row in counts[:8])
