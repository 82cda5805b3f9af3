"""What a reader calls a run: its format and what tells it from the others, or the name of its arm."""

from __future__ import annotations

from dataclasses import replace

from altgrad_cli.config.precision import PrecisionConfig
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.reporting.evidence.labels import run_labels
from altgrad_cli.sweeps.arms import Arm, control_config


def arm(name: str, **changes: object) -> Arm:
    return Arm(name=name, kind="format", config=replace(TrainConfig(), **changes))  # type: ignore[arg-type]


def on(text: str) -> object:
    return replace(TrainConfig().data, path=text)


def test_a_format_alone_is_called_by_its_name() -> None:
    arms = [arm("e7m0-uniform", fp8_format="E7M0"), arm("e3m4-uniform", fp8_format="E3M4")]
    controls = [Arm(name="c", kind="control", config=control_config(arms[0].config, "fp32"))]
    assert run_labels([*controls, *arms]) == {"c": "fp32", "e7m0-uniform": "E7M0", "e3m4-uniform": "E3M4"}


def test_seeds_share_a_label_and_retries_have_none() -> None:
    arms = [arm(f"e7m0-uniform-seed{seed}", fp8_format="E7M0", seed=seed) for seed in (42, 43)]
    retry = replace(arms[0], name="again", kind="retry")
    assert run_labels([*arms, retry]) == {each.name: "E7M0" for each in arms}


def test_regimes_and_settings_off_their_default_are_said() -> None:
    plain = PrecisionConfig(regime="standard")
    arms = [
        arm("a", fp8_format="NVFP4", precision=plain),
        arm("b", fp8_format="NVFP4", precision=replace(plain, rounding="stochastic_gradients", hadamard=16)),
        arm("c", fp8_format="E4M3", precision=PrecisionConfig(regime="uniform")),
    ]
    assert run_labels(arms) == {
        "a": "NVFP4 standard",
        "b": "NVFP4 standard stochastic gradients hadamard 16",
        "c": "E4M3 uniform",
    }


def test_texts_are_named_where_there_are_several_and_wanted() -> None:
    arms = [arm("a", fp8_format="E7M0", data=on("x/law.jsonl")), arm("b", fp8_format="E7M0")]
    assert run_labels(arms) == {"a": "E7M0, law", "b": "E7M0, embedded"}
    assert run_labels(arms, texts=False) == {"a": "E7M0", "b": "E7M0"}


def test_where_only_the_rate_tells_arms_apart_they_keep_their_names() -> None:
    arms = [arm(f"e7m0-uniform-{rate}-seed42", fp8_format="E7M0", learning_rate=rate) for rate in (0.1, 0.2)]
    assert run_labels(arms) == {each.name: each.name.removesuffix("-seed42") for each in arms}
