"""The words of the reports' index mean what the program means by them: its definitions, letter by letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from altgrad_cli.config.precision import REGIME_ROLES, ROLE_LETTERS, Regime
from altgrad_cli.metrics.catalogue import METRICS

INDEX = Path(__file__).parent.parent / "reports" / "README.md"
METRIC_WORDS = {
    "rho": "recovered_fraction",
    "tau": "update_transfer",
    "bit-stall": "bit_stall_rate",
    "nats above fp32": "loss_gap",
    "step ratio": "step_ratio",
    "underflow": "underflow_rate",
}


def meanings(text: str) -> dict[str, str]:
    """Word -> what it means, of the table under ``## Words``."""
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \|$", text.partition("## Words")[2], re.MULTILINE)
    return {word: meaning.replace("\\|", "|") for word, meaning in rows}


def test_a_metric_is_defined_as_the_program_defines_it() -> None:
    found = meanings(INDEX.read_text(encoding="utf-8"))
    assert {word: found.get(word) for word in METRIC_WORDS} == {
        word: METRICS[name].definition for word, name in METRIC_WORDS.items()
    }


@pytest.mark.parametrize("regime", ["uniform", "standard"])
def test_a_regime_rounds_the_roles_that_the_glossary_names(regime: Regime) -> None:
    letters = ", ".join(ROLE_LETTERS[role] for role in REGIME_ROLES[regime])
    assert meanings(INDEX.read_text(encoding="utf-8"))[regime].startswith(f"{letters} rounded")


def test_the_glossary_is_short() -> None:
    assert 8 <= len(meanings(INDEX.read_text(encoding="utf-8"))) <= 12


def test_another_definition_would_be_found() -> None:
    assert meanings("## Words\n\n| **rho** | a share of \\|dw\\| |\n") == {"rho": "a share of |dw|"}
