"""Every configuration that ships loads, says what it is, and is what its name promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from altgrad_cli.config.loading import (
    as_word,
    flat,
    from_plain,
    load_config,
    resolve,
    shipped_configs,
    shipped_folder,
    to_yaml,
    with_overrides,
)
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError, UsageError
from altgrad_cli.surgery.precision_plan import LayerKind, plan_precision

NAMES = list(shipped_configs())
STUDY = [
    "bf16_baseline",
    "e0m7_uniform",
    "e1m6_postln",
    "e1m6_uniform",
    "e3m4_uniform",
    "e5m2_fp8",
    "e5m2_overflow",
    "e5m2_short",
    "e7m0_uniform",
]


def test_the_configs_of_the_study_ship() -> None:
    assert {"base", "smoke", *STUDY} <= set(NAMES)
    assert {f"gpu/{name}" for name in ("base", *STUDY) if name != "e5m2_overflow"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_loads_by_name_and_by_path(name: str) -> None:
    assert load_config(name) == load_config(str(shipped_configs()[name]))


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_says_what_it_is(name: str) -> None:
    first = shipped_configs()[name].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert 40 < len(first) <= 110


@pytest.mark.parametrize("name", NAMES)
def test_resolved_configs_read_back_equal(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert from_plain(resolve(config)) == config
    written = tmp_path / "config.yaml"
    written.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(str(written)) == config


@pytest.mark.parametrize("name", [name for name in NAMES if name.rpartition("/")[2] != "smoke"])
def test_all_share_the_studys_settings(name: str) -> None:
    config = load_config(name)
    assert (config.seed, config.batch_size, config.learning_rate) == (42, 12, 6e-4)
    assert config.use_shadow
    assert config.optimizer.warmup_steps == 100
    assert config.optimizer.schedule == "constant"
    long = name.rpartition("/")[2] in ("bf16_baseline", "e5m2_fp8")
    assert (config.max_steps, config.stop) == ((2000, "plateau") if long else (500, "max_steps"))


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_uniform")])
def test_uniform_configs_round_everything_in_the_format_they_are_named_after(name: str) -> None:
    config = load_config(name)
    assert config.fp8_format.lower() == name.rpartition("/")[2].removesuffix("_uniform")
    assert config.precision.regime == "uniform"


@pytest.mark.parametrize("name", [name for name in STUDY if name != "e5m2_overflow"])
def test_the_gpu_twin_differs_in_size_tokens_and_device_only(name: str) -> None:
    size = ["model.n_layer=6", "model.n_head=6", "model.n_embd=384", "model.block_size=256"]
    assert load_config(f"gpu/{name}") == load_config(
        name, [*size, "data.tokenizer=gpt2", "runtime.device=cuda"]
    )


def test_fp8_tiles_is_what_deepseek_v3_trains_with() -> None:
    """arXiv 2412.19437, section 3.3.2: tiles of 1 x 128 for A and G, 128 x 128 for W."""
    config = load_config("fp8_tiles")
    kinds: dict[str, LayerKind] = {"blocks.0.mlp.c_fc": "normalised", "lm_head": "head"}
    inner, head = plan_precision(config.precision, config.fp8_format, kinds).layers
    names = {role: (fmt.name, fmt.block.rows, fmt.block.columns) for role, fmt in inner.formats}
    line = ("E4M3@128:float32", 1, 128)
    tile = ("E4M3@128x128:float32", 128, 128)
    assert names == {"weights": tile, "activations": line, "gradients": line}
    assert {fmt.name for _, fmt in head.formats} == {"BF16"}


def test_the_base_config_spells_out_the_defaults() -> None:
    assert load_config() == TrainConfig()


def test_names_work_from_any_folder(in_tmp_folder: Path) -> None:
    Path("mine.yaml").write_text("extends: e7m0_uniform\nmax_steps: 7\n", encoding="utf-8")
    assert load_config("mine.yaml", ["seed=1"]) == load_config("e7m0_uniform", ["max_steps=7", "seed=1"])


def test_overrides_of_a_loaded_config_are_checked_again() -> None:
    config = load_config("e7m0_uniform")
    assert with_overrides(config, ["precision.rounding=stochastic"]).precision.rounding == "stochastic"
    with pytest.raises(ConfigError, match="emergency shift"):
        with_overrides(config, ["enable_emergency_shift=true", "nan_policy=first"])


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("fp8_format=e9m9", "fp8_format"),
        ("precision.head_format=E3Q4", "precision.head_format"),
        ("precision.scaling.margin=3", "precision.scaling.margin"),
        ("data.tokenizer=gtp2", "data.tokenizer"),
        ("optimizer.betas=0.9,1.5", "optimizer.betas"),
        ("precision.rules=[{pattern: '*', format: e3}]", "precision.rules.0.format"),
    ],
)
def test_a_rule_broken_by_an_override_names_the_key(override: str, where: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config("base", [override])
    assert caught.value.where == f"command line: {where}"


def test_every_setting_of_a_config_can_be_given_as_an_override() -> None:
    config = load_config("e7m0_uniform", ["precision.rules=[{pattern: '*.c_fc', format: BF16}]"])
    words = [f"{key}={as_word(value)}" for key, value in flat(resolve(config)).items()]
    assert load_config("base", words) == config


def test_a_rule_between_two_keys_names_the_one_on_the_command_line_first() -> None:
    with pytest.raises(UsageError) as caught:
        load_config("smoke", ["model.n_head=3"])
    assert str(caught.value.where).startswith("command line: model.n_head, ")
    assert "smoke.yaml" in str(caught.value.where)
    assert caught.value.hint == "model.n_head=2"
    assert load_config("smoke", [caught.value.hint]).model.n_head == 2
    with pytest.raises(UsageError) as caught:
        load_config("smoke", ["model.n_embd=33"])
    assert str(caught.value.where).startswith("command line: model.n_embd, ")


@pytest.mark.parametrize(
    ("overrides", "allowed"),
    [
        (["runtime.threads=100000"], "1 to 1,024"),
        (["batch_size=1e8"], "1 to 65,536"),
        (["batch_size=60000", "model.block_size=65536"], "at most 16,777,216 tokens a step"),
        (["model.n_layer=1000", "model.n_embd=65536", "model.n_head=1"], "at most 10,000,000,000 parameters"),
        (["model.block_size=1e9"], "1 to 65,536"),
        (["seed=18446744073709551616"], "0 to 9,223,372,036,854,775,807"),
        (["max_steps=1e12"], "1 to 1,000,000,000"),
        (["runtime.evaluation_batches=1e9"], "1 to 100,000"),
        (["precision.scaling.history=1e9"], "1 to 100,000"),
        (["max_steps=0"], "1 to 1,000,000,000"),
        (["optimizer.warmup_steps=-1"], "0 to 1,000,000,000"),
    ],
)
def test_impossible_values_are_refused_with_the_limit(overrides: list[str], allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("smoke", overrides)
    assert str(caught.value.allowed).startswith(allowed)
    assert str(caught.value.where).startswith("command line: ")


def test_the_source_tree_is_where_the_configs_come_from_here() -> None:
    assert shipped_folder() == Path(__file__).resolve().parent.parent / "configs"
