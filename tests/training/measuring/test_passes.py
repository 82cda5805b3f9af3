"""From counts on the device to the metrics of an event: names, ranges, missing values, windows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.config.run import MonitorConfig, MonitorWindow, TrainConfig
from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import parse_format
from altgrad_cli.metrics.catalogue import spec_of
from altgrad_cli.metrics.thresholds import REGION_STEPS
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import InterventionApplied, StepCompleted
from altgrad_cli.training.measuring.codes import CodeCensus
from altgrad_cli.training.measuring.passes import Measurements, read_pass, read_tables
from altgrad_cli.training.measuring.updates import interval_diagnostics, read_update
from altgrad_cli.training.passes.eager import run_pass, shadow_pass
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.step import compute_step
from altgrad_cli.training.update import CandidateUpdate
from altgrad_cli.training.watch.monitors import Monitors
from tests.training.states import gpt_state, random_batch, take_step

Tiny = Callable[..., TrainConfig]
ALL_LOGS = ("log_stiffness=true", "log_grid_alignment=true", "log_ulp=true")
MIXED = 'precision.rules=[{pattern: "blocks.0.*", format: E4M3, roles: [weights, activations, gradients]}]'
VARIANTS = {
    "fp32": ("precision.regime=fp32",),
    "bf16": ("precision.regime=bf16",),
    "standard": ("precision.regime=standard", "fp8_format=E4M3"),
    "uniform": ("fp8_format=E3M4",),
    "frozen": ("precision.regime=frozen",),
    "postln": ("precision.regime=postln", "fp8_format=E1M6"),
    "mixed": ("fp8_format=E7M0", MIXED),
    "stochastic": ("fp8_format=E5M2", "precision.rounding=stochastic_all"),
    "blocks": ("fp8_format=NVFP4", "precision.regime=standard"),
    "stored blocks": ("fp8_format=MXFP8_E4M3",),
}


def steps_of(config: TrainConfig) -> list[StepCompleted]:
    return [event for event in train(config) if isinstance(event, StepCompleted)]


def measured_step(state: TrainState, seed: int = 1) -> tuple[Measurements, CandidateUpdate]:
    """What the engine measures in one step, the update included but not committed."""
    monitors = Monitors(state.config, state)
    batch = random_batch(seed)
    step = compute_step(
        state,
        batch,
        learning_rate=1e-3,
        read=lambda result: read_pass(state, result, shadow_pass(state, batch), monitors.dead),
    )
    read_update(state, step, monitors.persistence, monitors.regions)
    assert step.update is not None
    return step.summary.measured, step.update


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_key_has_a_spec_and_every_rate_is_a_fraction(tiny: Tiny, variant: str) -> None:
    """Scalars and lists alike; a per-layer list has one place for each layer."""
    for event in steps_of(tiny(*VARIANTS[variant], *ALL_LOGS, "optimizer.gradient_clip=0.1", "max_steps=4")):
        for key, values in [*((k, [v]) for k, v in event.metrics.items()), *event.layers.items()]:
            spec = spec_of(key)
            assert spec is not None, key
            assert key.partition("/")[2] in ("", *OPERAND_ROLES, "stored_weights"), key
            assert (spec.scope == "layer_role") == ("/" in key), key
            for value in values:
                assert value is None or not math.isnan(value), key
                if spec.unit == "fraction" and value is not None:
                    assert 0 <= value <= 1, (key, value)
        assert {len(values) for values in event.layers.values()} == {9}


def test_heavy_measures_are_taken_every_diagnostic_interval(tiny: Tiny) -> None:
    events = steps_of(tiny("fp8_format=E3M4", *ALL_LOGS, "max_steps=4"))
    light, heavy = (set(event.metrics) for event in events[:2])
    assert light < heavy
    assert {"stiffness_mean", "grid_error_mean", "ulp_mean", "predicted_stall_rate"} <= heavy - light
    for event in events:
        assert set(event.metrics) == (light if event.step % 2 else heavy)
        assert bool(event.histograms) == (event.step % 2 == 0)


def test_what_was_not_measured_is_absent_or_null_and_never_zero(tiny: Tiny) -> None:
    plain = steps_of(tiny("precision.regime=fp32", "max_steps=1"))[0]
    for key in ("bit_stall_rate", "update_transfer", "apparent_stall_rate", "gradient_cosine"):
        assert key not in plain.metrics
        assert key not in plain.layers
    assert not [key for key in plain.metrics if "/" in key], "nothing was rounded, so no role has a rate"
    standard = steps_of(tiny("precision.regime=standard", "max_steps=1"))[0]
    assert "bit_stall_rate" not in standard.metrics
    assert standard.metrics["apparent_stall_rate"] is not None
    assert standard.layers["apparent_stall_rate"][8] is None, "the head's update is not measured"
    uniform = steps_of(tiny("precision.regime=uniform", "max_steps=1"))[0]
    assert "apparent_stall_rate" not in uniform.metrics
    assert uniform.layers["bit_stall_rate"][8] is None
    assert uniform.layers["overflow_rate/weights"][:8] == [None] * 8, "the stored grid is not rounded again"
    assert uniform.layers["overflow_rate/weights"][8] is not None
    postln = steps_of(tiny("precision.regime=postln", "max_steps=1"))[0]
    fed = [value is not None for value in postln.layers["underflow_rate/activations"]]
    assert fed == [True, False, True, False] * 2 + [True]


def test_a_mixed_plan_measures_every_layer_by_its_own_kind(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E7M0", MIXED))
    take_step(state)
    measured, _ = measured_step(state, seed=2)
    kinds = {
        "bit_stall_rate": [False] * 4 + [True] * 4,
        "update_transfer": [False] * 4 + [True] * 4,
        "apparent_stall_rate": [True] * 4 + [False] * 4,
        "zero_update_fraction": [True] * 8,
        "update_norm": [True] * 8,
        "overflow_rate/stored_weights": [False] * 4 + [True] * 4,
        "overflow_rate/weights": [True] * 4 + [False] * 4,
        "codes_used/weights": [True] * 4 + [False] * 4,
        "codes_used/stored_weights": [False] * 4 + [True] * 4,
    }
    for key, expected in kinds.items():
        assert [value is not None for value in measured.layers[key][:8]] == expected, key
    norms = [value for value in measured.layers["update_norm"] if value is not None]
    assert measured.metrics["update_norm"] == pytest.approx(math.hypot(*norms))
    zero = measured.layers["zero_update_fraction"]
    assert all(value == 0 for value in zero[:4]), "a master always takes its update"
    assert all(value is not None and value > 0.5 for value in zero[4:8]), "E7M0 does not"


@pytest.mark.parametrize("name", ["E5M2", "MXFP8_E4M3", "E3M4@5x7"])
def test_update_metrics_agree_with_tensors_compared_by_hand(tiny: Tiny, name: str) -> None:
    state = gpt_state(tiny(f"fp8_format={name}"))
    measured, update = measured_step(state)
    assert update.stored is not None
    before = state.flat.linear_views(state.flat.values)[3]
    after = update.stored[3]
    dw = state.flat.linear_views(update.unrounded)[3] - before
    moved = dw != 0
    assert measured.layers["bit_stall_rate"][3] == pytest.approx(
        float((moved & (before == after)).sum() / moved.sum())
    )
    assert measured.layers["flip_rate"][3] == pytest.approx(float((before != after).float().mean()))
    tau = ((after - before).double() * dw).sum() / dw.double().square().sum()
    assert measured.layers["update_transfer"][3] == pytest.approx(float(tau), rel=1e-5)
    assert measured.layers["update_norm"][3] == pytest.approx(float(dw.norm()), rel=1e-5)


def test_gradient_norms_are_the_norms_of_the_gradient(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E5M2"))
    measured, _ = measured_step(state)
    result = run_pass(state, random_batch())
    views = state.flat.views(result.gradient)
    expected = [float(view.norm()) for view in views[:9]]
    assert measured.layers["gradient_norm"] == pytest.approx(expected, rel=1e-5)
    assert measured.metrics["gradient_norm"] == pytest.approx(float(result.gradient.norm()), rel=1e-5)
    assert measured.metrics["gradient_linf"] == float(result.gradient.abs().max())
    sparse = float((result.gradient.abs() < 1e-8).double().mean())
    assert measured.metrics["gradient_sparsity"] == pytest.approx(sparse)


def test_the_pulse_sees_what_is_not_finite_and_where(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E5M2", "precision.regime=standard"))
    monitors = Monitors(state.config, state)

    def pulse_of(tap: object = None) -> object:
        result = run_pass(state, random_batch(), tap=tap)  # type: ignore[arg-type]
        return read_pass(state, result, None, monitors.dead)

    good = pulse_of()
    assert good.finite  # type: ignore[attr-defined]
    assert good.nonfinite == {}  # type: ignore[attr-defined]

    def tap(layer: int, role: str, x: torch.Tensor) -> torch.Tensor:
        if (layer, role) == (2, "gradients"):
            x = x.clone()
            x.view(-1)[:3] = torch.inf  # saturates: loss and gradients stay finite
        return x

    bad = pulse_of(tap)
    assert not bad.finite  # type: ignore[attr-defined]
    assert bad.nonfinite == {(2, "gradients"): 3}  # type: ignore[attr-defined]
    assert math.isfinite(bad.loss)  # type: ignore[attr-defined]
    assert math.isfinite(bad.gradient_linf)  # type: ignore[attr-defined]
    assert math.isfinite(bad.amax[2][2]), "inf never becomes an amax"  # type: ignore[attr-defined]


def test_with_monitors_off_only_what_training_needs_is_read(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E5M2", "monitors.enabled=false"))
    monitors = Monitors(state.config, state)
    summary = read_pass(state, run_pass(state, random_batch()), None, monitors.dead)
    assert set(summary.measured.metrics) == {"loss"}
    assert summary.measured.layers == {}
    assert summary.finite
    assert all(math.isfinite(value) for value in summary.amax[0][1:])
    assert math.isnan(summary.amax[0][0]), "W is not rounded in uniform"


def test_rescaled_flips_are_counted_apart(tiny: Tiny) -> None:
    config = tiny("fp8_format=E3M4", "learning_rate=0.05", "max_steps=4")
    events = list(train(config))
    rescaled = [e for e in events if isinstance(e, InterventionApplied) and e.name == "rescale"]
    assert rescaled, "weights that grow fast leave their range"
    by_step = {e.step: e for e in events if isinstance(e, StepCompleted)}
    names = list(next(iter(events)).layers)  # type: ignore[attr-defined]
    for event in rescaled:
        layer = names.index(event.details["layer"])
        assert by_step[event.step].layers["rescale_flip_rate"][layer] is not None
        assert event.details["scale_after"] != event.details["scale_before"]
    touched = {(e.step, names.index(e.details["layer"])) for e in rescaled}
    for number, step in by_step.items():
        for layer, value in enumerate(step.layers.get("rescale_flip_rate", [])):
            assert (value is not None) == ((number, layer) in touched)


@pytest.mark.parametrize("name", ["E4M3", "MXFP8_E4M3", "E4M3@16x16"])
def test_the_census_counts_every_operand_once(tiny: Tiny, name: str) -> None:
    state = gpt_state(tiny(f"fp8_format={name}", "precision.regime=standard"))
    census = CodeCensus(state)
    run_pass(state, random_batch(), observer=census)
    found = census.histograms()
    assert set(found) == set(OPERAND_ROLES)
    fmt = parse_format("E4M3")
    for role in OPERAND_ROLES:
        assert [len(row) for row in found[role]] == [fmt.code_count + 1] * 8 + [0], "the BF16 head has none"
    assert [sum(row) for row in found["weights"][:4]] == [3072, 1024, 4096, 4096]
    assert [sum(row) for row in found["activations"][:4]] == [64 * 32] * 3 + [64 * 128]


# -- windows ---------------------------------------------------------------------------------------------


def sample() -> Measurements:
    return Measurements(
        metrics={"loss": 1.0, "overflow_rate/weights": 0.1, "bit_stall_rate": 0.5},
        layers={"overflow_rate/weights": [0.1, 0.2, None], "bit_stall_rate": [0.5, 0.6, 0.7]},
    )


NAMES = ["blocks.0.attn.c_attn", "blocks.1.attn.c_attn", "lm_head"]


def shown(step: int, *windows: MonitorWindow) -> Measurements:
    return sample().restricted(MonitorConfig(windows=windows), step, NAMES)


def test_without_windows_everything_is_shown() -> None:
    assert shown(3) == sample()


@pytest.mark.parametrize(
    ("step", "seen"),
    [(4, False), (5, True), (6, False), (7, False), (8, True), (11, True), (12, False), (14, False)],
)
def test_a_window_has_start_end_and_interval(step: int, seen: bool) -> None:
    found = shown(step, MonitorWindow(metric="overflow_rate/*", start=5, end=11, interval=3))
    assert ("overflow_rate/weights" in found.metrics) == seen
    assert ("overflow_rate/weights" in found.layers) == seen
    assert "bit_stall_rate" in found.layers
    assert "loss" in found.metrics


def test_a_window_without_end_goes_on() -> None:
    assert "bit_stall_rate" in shown(10**6, MonitorWindow(metric="bit_stall_rate", start=10**6)).metrics


def test_a_window_shows_the_layers_of_its_pattern_and_nulls_for_the_others() -> None:
    found = shown(1, MonitorWindow(metric="*", layers="blocks.1.*"))
    assert found.layers == {"overflow_rate/weights": [None, 0.2, None], "bit_stall_rate": [None, 0.6, None]}
    assert found.metrics == sample().metrics


def test_the_first_window_that_matches_wins() -> None:
    found = shown(2, MonitorWindow(metric="bit_*", layers="lm_head"), MonitorWindow(metric="*", start=100))
    assert found.layers == {"bit_stall_rate": [None, None, 0.7]}
    assert set(found.metrics) == {"bit_stall_rate"}


def test_windows_keep_the_order_of_the_metrics() -> None:
    many = {f"metric_{index}": float(index) for index in range(40)}
    window = MonitorConfig(windows=(MonitorWindow(metric="metric_*"),))
    kept = Measurements(metrics=dict(many)).restricted(window, 1, NAMES)
    assert list(kept.metrics) == list(many)


def test_windows_change_what_is_shown_and_not_what_is_decided(tiny: Tiny) -> None:
    hidden = "monitors.windows=[{metric: '*', start: 1000}]"
    base = ("fp8_format=E7M0", "enable_emergency_shift=true", "max_steps=22")
    events = [list(train(tiny(*base, *extra))) for extra in ((), (hidden,))]
    shifts = [
        [(e.step, e.details) for e in run if isinstance(e, InterventionApplied) and "shift" in e.name]
        for run in events
    ]
    assert shifts[0] == shifts[1]
    assert shifts[0]
    assert [e.metrics for e in events[1] if isinstance(e, StepCompleted)] == [{}] * 22


@pytest.mark.parametrize(
    ("window", "guess"),
    [
        ("{metric: bit_stal_rate}", "bit_stall_rate"),
        ("{metric: '*', layers: blocks.0.mlp.cfc}", "blocks.0.mlp.c_fc"),
    ],
)
def test_a_window_that_matches_nothing_is_refused_before_the_first_step(
    tiny: Tiny, window: str, guess: str
) -> None:
    with pytest.raises(ConfigError, match="matches no") as caught:
        next(train(tiny(f"monitors.windows=[{window}]")))
    assert guess in (caught.value.hint or "")


def test_an_interval_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="interval"):
        MonitorWindow(metric="*", interval=0)


def test_tables_are_read_back_in_their_shapes() -> None:
    one, other = torch.arange(6).view(2, 3), torch.tensor([[math.nan], [math.inf]])
    first, second = read_tables([one, other])
    assert first == [[0, 1, 2], [3, 4, 5]]
    assert math.isnan(second[0][0])
    assert second[1] == [math.inf]


def test_rows_that_never_update_are_added_over_the_layers(tiny: Tiny) -> None:
    """Layer k is given k + 1 rows that never move; in the others half of the weights with a gradient do."""
    state = gpt_state(tiny("fp8_format=E7M0"))
    monitors = Monitors(state.config, state)
    assert monitors.regions is not None
    weights = state.flat.linear_views(state.flat.values)[:8]  # without the head, which is not stored so
    layer_of_row = [layer for layer, weight in enumerate(weights) for _ in range(len(weight))]
    place = [row - layer_of_row.index(layer) for row, layer in enumerate(layer_of_row)]
    stuck = [place[row] <= layer for row, layer in enumerate(layer_of_row)]
    counts = torch.tensor([[100.0, 100.0 if still else 50.0] for still in stuck], dtype=torch.float64)
    windows = [monitors.regions.advance(counts) for _ in range(REGION_STEPS)]
    assert windows == [False] * (REGION_STEPS - 1) + [True]
    step = compute_step(state, random_batch(), learning_rate=1e-3)
    interval_diagnostics(state, step, CodeCensus(state), monitors.persistence, monitors.regions, None)
    measured = step.summary.measured
    assert measured.layers["zero_update_rows"][:8] == list(range(1, 9))
    assert measured.metrics["zero_update_rows"] == sum(stuck)
    shares = [(layer + 1 + 0.5 * (len(w) - layer - 1)) / len(w) for layer, w in enumerate(weights)]
    assert measured.layers["zero_update_region_fraction"][:8] == pytest.approx(shares)
    total = sum(weight.numel() for weight in weights)
    pooled = sum(share * weight.numel() for share, weight in zip(shares, weights, strict=True)) / total
    assert measured.metrics["zero_update_region_fraction"] == pytest.approx(pooled)
