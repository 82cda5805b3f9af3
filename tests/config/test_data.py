from __future__ import annotations

import pytest

from altgrad_cli.config.data import DataConfig
from altgrad_cli.errors import ConfigError, DataError


@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2", "bpe:257", "bpe:4096", "bpe:100000"])
def test_tokenizers_that_exist(tokenizer: str) -> None:
    assert DataConfig(tokenizer=tokenizer).tokenizer == tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "hint"),
    [
        ("gpt-2", "did you mean gpt2?"),
        ("byte", "did you mean bytes?"),
        ("bpe4096", "did you mean bpe:4096?"),
        ("sentencepiece", None),
        ("bpe", None),
        ("bpe:256", None),  # rustbpe panics below 256 and has nothing to do at 256
        ("bpe:-1", None),
        ("bpe:4e3", None),
        ("bpe:²56", None),
        ("bpe:100001", None),
        ("", None),
    ],
)
def test_an_unknown_tokenizer_is_refused_with_the_nearest_name(tokenizer: str, hint: str | None) -> None:
    with pytest.raises(DataError, match="unknown tokenizer") as refused:
        DataConfig(tokenizer=tokenizer)
    assert refused.value.exit_code == 2
    assert refused.value.allowed == "bytes, gpt2, or bpe:N with N from 257 to 100000"
    assert refused.value.hint == (hint or "data.tokenizer=bytes needs no file and no training")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_validation_fraction_leaves_text_on_both_sides(fraction: float) -> None:
    with pytest.raises(ConfigError, match="validation fraction"):
        DataConfig(validation_fraction=fraction)


@pytest.mark.parametrize("key", ["path", "hub", "text_field"])
def test_an_empty_place_is_a_slip_and_not_the_working_directory(key: str) -> None:
    with pytest.raises(ConfigError, match=f"data.{key} is empty"):
        DataConfig(**{key: ""})


def test_path_and_hub_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="both given"):
        DataConfig(path="law.txt", hub="coastalcph/lex_glue:eurlex")
