"""Where trouble sits and what it costs, from measures written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.record import RunRecord, build_record
from altgrad_cli.runs.series import Series
from altgrad_cli.sweeps.ablation.layers import attribute_layers, loss_gain, loss_noise
from altgrad_cli.sweeps.ablation.troubles import (
    gradient_errors,
    losses,
    troubled_layers,
    unreached_layers,
)

LAYERS = ("a", "b", "c")


def record(
    layers: Sequence[str], metrics: Mapping[str, list[float | None]], loss: float | None = None
) -> RunRecord:
    """A run of one step that measured ``metrics`` of its layers, and ``loss`` at step 10."""
    lines: list[dict[str, Any]] = [
        {"event": "run_started", "step": 0, "config": {}, "layers": layers},
        {"event": "step", "step": 1, "metrics": {}, "layers": metrics, "committed": True},
    ]
    evaluated = {"event": "evaluated", "step": 10, "validation_loss": loss, "validation_loss_master": None}
    return build_record(Path("run"), lines + ([] if loss is None else [evaluated]))


def run(**metrics: list[float | None]) -> RunRecord:
    return record(LAYERS, {name.replace("__", "/"): values for name, values in metrics.items()})


def series(**losses_by_step: float) -> Series:
    return Series.of((int(step[1:]), loss) for step, loss in losses_by_step.items())


@pytest.mark.parametrize(
    ("role", "metrics", "expected"),
    [
        ("gradients", {"underflow_rate__gradients": [0.49, 0.5, None]}, [("b", "underflow")]),
        ("activations", {"overflow_rate__activations": [0.1, 0.09, None]}, [("a", "overflow")]),
        ("stored_weights", {"update_transfer": [0.3, 0.31, None]}, [("a", "stall")]),
        ("stored_weights", {"zero_share__stored_weights": [None, 0.9, None]}, [("b", "underflow")]),
        ("weights", {"underflow_rate__gradients": [1.0, 1.0, 1.0]}, []),
        ("weights", {}, []),
    ],
)
def test_trouble_is_a_role_of_a_layer_beyond_a_limit(
    role: Any, metrics: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert [(each.layer, each.trouble) for each in troubled_layers(run(**metrics), role)] == expected


def test_a_layer_is_unreached_where_it_is_rounded_and_nothing_but_zeros_came() -> None:
    seen = run(underflow_rate__gradients=[None, 1.0, None], overflow_rate__gradients=[0.0, 0.0, None])
    assert unreached_layers(seen, "gradients") == ["a"]


@pytest.mark.parametrize(
    ("cosine", "ratio", "error"),
    [(1.0, 1.0, 0.0), (None, 0.0, 1.0), (0.0, 1.0, math.sqrt(2)), (1.0, 0.25, 0.75), (-1.0, 1.0, 2.0)],
)
def test_the_error_of_a_gradient_is_that_of_two_vectors(
    cosine: float | None, ratio: float, error: float
) -> None:
    found = gradient_errors(run(gradient_cosine=[cosine, 1.0, 1.0], gradient_norm_ratio=[ratio, 1.0, 1.0]))
    assert found[0] == pytest.approx(error)


def test_without_a_shadow_the_first_step_tells_what_is_missing() -> None:
    """Same seed, so the same weights and batch: the length that is gone, the rounding took."""
    spoiled, whole = run(gradient_norm=[0.0, 0.9, None]), run(gradient_norm=[2.0, 1.0, 0.0])
    measure, found = losses("gradients", spoiled, whole)
    assert measure == "gradient_norm"
    assert [(loss.layer, loss.before) for loss in found] == [("a", 1.0), ("b", pytest.approx(0.1))]


def test_losses_are_compared_at_the_last_common_step() -> None:
    assert loss_gain(series(s10=3.0, s20=2.5), series(s10=2.5, s20=2.25)) == (20, 0.25)
    assert loss_gain(series(s10=3.0, s20=2.5), series(s10=2.5)) == (10, 0.5)
    assert loss_gain(series(s10=math.nan), series(s10=2.5)) == (10, math.inf)
    assert loss_gain(series(s10=3.0), series(s20=2.5)) == (None, None)


def test_noise_is_what_harmless_rounding_does_and_no_less_than_a_seed() -> None:
    fp32, frozen = series(s10=3.0, s20=2.0), series(s10=3.0, s20=3.0)
    assert loss_noise(fp32=fp32, bf16=series(s10=3.0, s20=2.001), frozen=frozen) == pytest.approx(0.05)
    assert loss_noise(fp32=fp32, bf16=series(s10=3.2, s20=2.0), frozen=frozen) == pytest.approx(0.4)
    assert loss_noise(fp32=fp32, bf16=series(), frozen=frozen) is None


GRADIENTS = "[{pattern: blocks.0.mlp.c_proj, format: E1M6, roles: [gradients], scaling: none}]"
NAMES = tuple(f"blocks.0.{kind}" for kind in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))


def of_four(loss: float, underflow: list[float], error: list[float]) -> RunRecord:
    """Gradients that underflow so often, and weight gradients that are off by so much."""
    metrics: dict[str, list[float | None]] = {
        "underflow_rate/gradients": [*underflow],
        "gradient_norm_ratio": [1 - wrong for wrong in error],
        "gradient_cosine": [1.0] * 4,
    }
    return record(NAMES, metrics, loss)


def named(runs: list[RunRecord]) -> list[tuple[str, ...]]:
    """What is named when the rescues that are asked for measure ``runs[1:]``, in turn."""
    config = load_config("base", ["precision.regime=standard", f"precision.rules={GRADIENTS}"])
    asked: list[TrainConfig] = []

    def lookup(rescue: TrainConfig) -> RunRecord | None:
        if rescue not in asked:
            asked.append(rescue)
        number = asked.index(rescue) + 1
        return runs[number] if number < len(runs) else None

    return [found.layers for found in attribute_layers("arm", config, runs[0], lookup, 0.01)]


def test_a_rescue_speaks_only_for_the_layers_that_it_adds() -> None:
    """The last layer starves the first; rescued, the first one underflows harmlessly, and is not named."""
    planted = of_four(2.5, [0.2, 0.0, 0.0, 1.0], [0.9, 0.0, 0.0, 0.95])
    last_rescued = of_four(2.0, [0.6, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0])
    both_rescued = of_four(1.9, [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert named([planted, last_rescued, both_rescued]) == [(NAMES[3],)]
    hurt = of_four(2.0, [0.6, 0.0, 0.0, 0.0], [0.8, 0.0, 0.0, 0.0])
    assert named([planted, hurt, both_rescued]) == [(NAMES[0], NAMES[3])]


def test_what_a_rescue_gives_back_may_wait_for_the_layers_behind_it() -> None:
    """As on the real law with every gradient spoiled: the first layer's returns fully with the last's."""
    planted = of_four(2.5, [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0])
    hidden = of_four(2.2, [0.0, 1.0, 0.0, 0.0], [0.98, 1.0, 0.0, 0.0])
    assert named([planted, hidden, of_four(2.0, [0.0] * 4, [0.0] * 4)]) == [(NAMES[0], NAMES[1], NAMES[3])]
    unmoved = of_four(2.2, [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    assert named([planted, unmoved, of_four(2.0, [0.0] * 4, [0.0] * 4)]) == [(NAMES[1], NAMES[3])]


def test_a_victim_is_not_rescued_with_the_culprit() -> None:
    planted = of_four(2.5, [0.55, 0.0, 0.0, 1.0], [0.9, 0.0, 0.0, 0.95])
    rescued = of_four(2.0, [0.1, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert named([planted, rescued]) == [(NAMES[3],)]


def test_a_lower_loss_alone_names_nothing_where_the_gradients_are_whole() -> None:
    planted = of_four(2.5, [0.6, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0])
    rescued = of_four(2.0, [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert named([planted, rescued]) == [()]
