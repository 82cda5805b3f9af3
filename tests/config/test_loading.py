"""The strict loader over a toy tree: coercion by declared type, extends, overrides, and every refusal."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altgrad_cli.config import yaml_tree
from altgrad_cli.config.coercion import build, to_plain
from altgrad_cli.config.loading import find_config, load_config, load_tree, to_yaml, with_overrides
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.config.yaml_tree import ConfigTree, parse_yaml, quoted
from altgrad_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    pattern: str
    format: str = "BF16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine", "none"] | None = "constant"

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError(
                "the learning rate must be positive", where="optimizer.learning_rate", allowed="above 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy:
    seed: int = 42
    name: str | None = None
    label: str = "x"
    shadow: bool = True
    steps: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    optimizer: Optimizer = field(default_factory=Optimizer)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def _write(text: str | bytes, name: str = "toy.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def refused(path: Path, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_tree(Toy, path, overrides)
    assert caught.value.exit_code == 2
    return caught.value


# --- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6e-4", 6e-4),  # a string to PyYAML
        ("6E-4", 6e-4),
        ("1", 1.0),
        ("1_000", 1000.0),
        (".5", 0.5),
    ],
)
def test_floats(write: Write, text: str, expected: float) -> None:
    loaded = load_tree(Toy, write(f"optimizer:\n  learning_rate: {text}\n")).optimizer.learning_rate
    assert loaded == expected
    assert type(loaded) is float
    assert load_tree(Toy, write(""), [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1_000", 1000), ("1e3", 1000), ("007", 7), ("1:30", None), ("1.5", None), ("true", None), ("", None)],
)
def test_integers(write: Write, text: str, expected: int | None) -> None:
    path = write(f"seed: {text}\n")
    if expected is None:
        assert refused(path).allowed == "a whole number"
    else:
        assert load_tree(Toy, path).seed == expected


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("No", False), ("off", False), ("1", None)])
def test_booleans(write: Write, text: str, expected: bool | None) -> None:
    path = write(f"shadow: {text}\n")
    if expected is None:
        assert refused(path).allowed == "true or false"
    else:
        assert load_tree(Toy, path).shadow is expected


def test_texts_are_never_guessed_at(write: Write) -> None:
    for text in ("no", "1e3", "2024-01-01", "0x1F", "null"):
        assert load_tree(Toy, write(f"label: {text}\n")).label == text


def test_null_is_a_word_only_without_quotes_and_only_where_allowed(write: Write) -> None:
    assert load_tree(Toy, write("name: null\n")).name is None
    assert load_tree(Toy, write("name: ~\n")).name is None
    assert load_tree(Toy, write('name: "null"\n')).name == "null"
    assert load_tree(Toy, write("name: x"), ["name=null"]).name is None
    assert "a whole number" in str(refused(write("seed: null\n")).allowed)


def test_none_as_a_literal_word_is_not_null(write: Write) -> None:
    assert load_tree(Toy, write("optimizer: {schedule: none}\n")).optimizer.schedule == "none"
    assert load_tree(Toy, write("optimizer: {schedule: null}\n")).optimizer.schedule is None


def test_lists_and_comma_separated_texts(write: Write) -> None:
    assert load_tree(Toy, write("steps: [1, 2_0]\n")).steps == (1, 20)
    assert load_tree(Toy, write(""), ["steps=1,2"]).steps == (1, 2)
    assert load_tree(Toy, write(""), ["steps=[1, 2]"]).steps == (1, 2)
    assert load_tree(Toy, write(""), ["steps="]).steps == ()
    assert load_tree(Toy, write(""), ["tags=a, b"]).tags == ("a", "b")
    assert load_tree(Toy, write(""), ["optimizer.betas=0.9,0.99"]).optimizer.betas == (0.9, 0.99)


def test_rules(write: Write) -> None:
    expected = (Rule(pattern="*.c_proj"), Rule(pattern="blocks.0.*", format="E5M2"))
    text = 'rules:\n- {pattern: "*.c_proj"}\n- pattern: blocks.0.*\n  format: E5M2\n'
    assert load_tree(Toy, write(text)).rules == expected
    override = 'rules=[{pattern: "*.c_proj"}, {pattern: blocks.0.*, format: E5M2}]'
    assert load_tree(Toy, write(""), [override]).rules == expected


def test_an_override_is_split_at_its_first_equals_sign(write: Write) -> None:
    assert load_tree(Toy, write(""), ["label=a=b"]).label == "a=b"


def test_later_overrides_win_and_leave_their_siblings_alone(write: Write) -> None:
    path = write("optimizer: {warmup_steps: 7, learning_rate: 1}\n")
    loaded = load_tree(Toy, path, ["optimizer.learning_rate=2", "optimizer.learning_rate=3"])
    assert loaded.optimizer == Optimizer(warmup_steps=7, learning_rate=3.0)


def test_an_emptied_section_changes_nothing(write: Write) -> None:
    write("optimizer: {warmup_steps: 7}\n", "lower.yaml")
    assert load_tree(Toy, write("extends: lower.yaml\noptimizer:\n")).optimizer.warmup_steps == 7
    assert load_tree(Toy, write("optimizer:\n")).optimizer == Optimizer()


# --- extends ------------------------------------------------------------------------------------------


def test_extends_merges_sections_and_replaces_lists(write: Write) -> None:
    write("seed: 1\nsteps: [1, 2, 3]\noptimizer: {warmup_steps: 5}\n", "lowest.yaml")
    write("extends: lowest.yaml\nseed: 2\noptimizer: {learning_rate: 0.5}\n", "middle.yaml")
    loaded = load_tree(Toy, write("extends: middle.yaml\nsteps: [9]\n"))
    assert loaded == Toy(seed=2, steps=(9,), optimizer=Optimizer(warmup_steps=5, learning_rate=0.5))


def test_extends_is_relative_to_the_file_not_to_the_working_directory(write: Write) -> None:
    write("seed: 3\n", "below/lower.yaml")
    assert load_tree(Toy, write("extends: lower.yaml\n", "below/upper.yaml")).seed == 3


def test_a_cycle_is_named(write: Write) -> None:
    write("extends: toy.yaml\n", "other.yaml")
    error = refused(write("extends: other.yaml\n"))
    assert error.message == "the configuration extends itself: toy.yaml -> other.yaml -> toy.yaml"


def test_extends_of_a_missing_file_says_where(write: Write) -> None:
    error = refused(write("seed: 1\nextends: gone.yaml\n"))
    assert error.where == "toy.yaml:2: extends"
    assert "gone" in error.message


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sed", "seed"),
        ("lr", "optimizer.learning_rate"),
        ("warmup_steps", "optimizer.warmup_steps"),
        ("optimiser.betas", "optimizer"),
        ("optimizer.warmup", "optimizer.warmup_steps"),
    ],
)
def test_an_unknown_key_names_the_nearest(write: Write, key: str, meant: str) -> None:
    error = refused(write(""), f"{key}=1")
    assert error.hint == f"did you mean {meant}?"
    assert error.where is not None
    assert error.where.startswith("command line: ")


def test_an_unknown_key_in_a_file_names_file_line_and_key(write: Write) -> None:
    error = refused(write("seed: 1\noptimizer:\n  warmup_step: 3\n"))
    assert error.where == "toy.yaml:3: optimizer.warmup_step"
    assert error.message == "unknown key: optimizer.warmup_step"
    assert error.hint == "did you mean optimizer.warmup_steps?"
    assert "learning_rate, betas" in str(error.allowed)


def test_something_altogether_unknown_gets_no_wild_guess(write: Write) -> None:
    error = refused(write("zzqx: 1\n"))
    assert error.hint is None
    assert "seed, name" in str(error.allowed)


def test_a_type_error_says_where_and_what_is_allowed(write: Write) -> None:
    error = refused(write("optimizer:\n  learning_rate: fast\n"))
    assert error.message == "optimizer.learning_rate = 'fast' is not allowed"
    assert error.where == "toy.yaml:2: optimizer.learning_rate"
    assert error.allowed == "a finite number"


def test_a_literal_lists_its_words_and_the_nearest(write: Write) -> None:
    error = refused(write(""), "optimizer.schedule=cosin")
    assert error.allowed == "constant, cosine, none, or null"
    assert error.hint == "did you mean cosine?"


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_non_finite_numbers_are_refused(write: Write, text: str) -> None:
    assert refused(write(""), f"optimizer.learning_rate={text}").allowed == "a finite number"


def test_a_rule_of_the_section_itself_gets_the_place_of_its_key(write: Write) -> None:
    write("optimizer:\n  learning_rate: -1\n", "lower.yaml")
    error = refused(write("extends: lower.yaml\n"))
    assert error.where == "lower.yaml:2: optimizer.learning_rate"
    assert refused(write(""), "optimizer.learning_rate=0").where == "command line: optimizer.learning_rate"


def test_sections_and_values_are_not_confused(write: Write) -> None:
    assert "is a section" in refused(write(""), "optimizer=3").message
    assert "is a section" in refused(write(""), "optimizer=").message
    assert "is a section" in refused(write("optimizer: [1]\n")).message
    assert "not a section" in refused(write(""), "seed.deeper=3").message
    assert "not a section" in refused(write("seed: {a: 1}\n")).message
    assert refused(write("seed: [1]\n")).allowed == "a whole number"


def test_a_wrong_number_of_values(write: Write) -> None:
    error = refused(write(""), "optimizer.betas=0.9")
    assert error.message == "optimizer.betas has 1 values"
    assert error.allowed == "2 values: a finite number, a finite number"


def test_a_missing_key_of_a_rule_names_the_line_of_the_rule(write: Write) -> None:
    error = refused(write("rules:\n- {pattern: a}\n- {format: E5M2}\n"))
    assert error.message == "the key rules.1.pattern is missing"
    assert error.where == "toy.yaml:3: rules.1"


@pytest.mark.parametrize("override", ["seed", "=3", "", "seed.=3", ".=1", "--seed"])
def test_what_is_not_an_override(write: Write, override: str) -> None:
    error = refused(write(""), override)
    assert error.message == f"not an override: {override!r}"
    assert "key=value" in str(error.allowed)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("seed: 1\n  name: [\n", "toy.yaml:2:7", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "toy.yaml:2", "stands here twice"),
        ("a: &x 1\nb: *x\n", "toy.yaml:2:4", "aliases"),
        ("seed: !!python/object/apply:os.getcwd []\n", "toy.yaml:1", "not supported"),
        ("- 1\n", "toy.yaml:1", "mapping"),
        ("just words\n", "toy.yaml:1", "mapping"),
        ("? [1]\n: 2\n", "toy.yaml:1", "a key must be a word"),
        ("seed: 1\n---\nseed: 2\n", "toy.yaml:2:1", "not valid YAML"),
        ("\tseed: 1\n", "toy.yaml:1:1", "not valid YAML"),
        ("seed: \x00\n", "toy.yaml", "not valid YAML"),
        ("[" * 100_000, "toy.yaml", "nested too deeply"),
    ],
)
def test_bad_yaml_names_line_and_column(write: Write, text: str, place: str, what: str) -> None:
    error = refused(write(text))
    assert error.where == place
    assert what in error.message


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    assert "UTF-8" in refused(write(b"label: \xff\n")).message
    assert load_tree(Toy, write(b"\xef\xbb\xbfseed: 5\n")).seed == 5
    assert "No such file" in refused(tmp_path / "gone.yaml").message
    assert "larger than 1 MiB" in refused(write(b"#" * (1 << 20) + b"\n")).message
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.yaml").touch()
    error = refused(tmp_path / "folder")
    assert "a folder was given" in error.message
    assert error.hint == "it holds: a.yaml"


def test_a_pipe_is_read_like_a_shells_and_given_up_where_nobody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_tree, "_PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "toy.yaml")
    assert "nobody wrote to it" in refused(tmp_path / "toy.yaml").message
    reading, writing = os.pipe()
    os.write(writing, b"seed: 7\n")
    os.close(writing)
    assert load_tree(Toy, Path(f"/dev/fd/{reading}")).seed == 7
    os.close(reading)


def test_permission_errors_are_one_message(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write("seed: 1\n")
    monkeypatch.setattr(Path, "open", refuse)
    error = refused(path)
    assert error.message == "the configuration file cannot be read: Permission denied"
    assert error.where == "toy.yaml"


# --- names --------------------------------------------------------------------------------------------


def test_an_unknown_config_names_the_nearest_and_the_list() -> None:
    with pytest.raises(ConfigError) as caught:
        find_config("e7m0_unifrom")
    assert caught.value.hint == "did you mean e7m0_uniform?"
    assert "bf16_baseline" in str(caught.value.allowed)


def test_a_missing_path_points_at_the_shipped_config_of_that_name() -> None:
    with pytest.raises(ConfigError) as caught:
        find_config("elsewhere/e7m0_uniform.yaml")
    assert caught.value.hint == "a config of this name ships with altgrad: e7m0_uniform"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nowhere/"])
def test_odd_names_are_refused_not_crashed_on(name: str) -> None:
    with pytest.raises(ConfigError):
        find_config(name)


# --- round trip ---------------------------------------------------------------------------------------

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_floats = st.floats(allow_nan=False, allow_infinity=False)
_toys = st.builds(
    Toy,
    seed=st.integers(),
    name=st.none() | _texts,
    label=_texts,
    shadow=st.booleans(),
    steps=st.lists(st.integers(), max_size=3).map(tuple),
    tags=st.lists(_texts, max_size=3).map(tuple),
    rules=st.lists(st.builds(Rule, pattern=_texts, format=_texts), max_size=2).map(tuple),
    optimizer=st.builds(
        Optimizer,
        learning_rate=_floats.filter(lambda x: x > 0),
        betas=st.tuples(_floats, _floats),
        warmup_steps=st.integers(),
        schedule=st.sampled_from(["constant", "cosine", "none", None]),
    ),
)


@given(_toys)
def test_every_tree_survives_being_written_to_yaml_and_read_back(toy: Toy) -> None:
    assert build(Toy, parse_yaml(to_yaml(toy), "toy.yaml")) == toy


@given(_toys)
def test_every_tree_survives_being_made_plain(toy: Toy) -> None:
    assert build(Toy, ConfigTree(values=quoted(to_plain(toy)))) == toy


# --- laid onto a config ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["learning_rate=1e-3", "learning_rate=2e-3"],
        ["optimizer.betas=[0.5, 0.99]", "precision.scaling.recipe=amax", "model.n_layer=2"],
        ["precision.rules=[{pattern: '*.c_fc', format: BF16}]", "optimizer.gradient_clip=null"],
        ["sede=1"],
        ["optimizer=null"],
        ["precision.scaling.margin=3"],
        ["model.n_head=3"],
        ["runtime.capture_at=0"],
    ],
)
def test_overrides_laid_onto_a_config_do_what_they_do_to_its_file(overrides: list[str]) -> None:
    def outcome(make: Callable[[], TrainConfig]) -> object:
        try:
            return make()
        except ConfigError as error:
            return error.message, error.allowed, error.hint

    laid = outcome(lambda: with_overrides(load_config("e7m0_uniform"), overrides))
    assert laid == outcome(lambda: load_config("e7m0_uniform", overrides))
