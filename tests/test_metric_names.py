"""Every metric name that the code says is a metric of the catalogue.

Two nets. Where a metric is asked for (``mean(...)`` in a source, ``.metrics["..."]``, ``series_of``), the
catalogue has to have it. And any other string that is a metric's name but for its end or its beginning, or
almost spelt like one, is taken for a name that matches nothing, unless it is listed here as another word.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from altgrad_cli.config.precision import ROLES
from altgrad_cli.metrics.catalogue import METRICS

PACKAGE = Path(__file__).resolve().parent.parent / "altgrad_cli"

OWN_WORDS = {
    *("stall_rate", "on_grid", "stiffness_median", "predicted_stall", "first_step"),
    *("top_binade", "ulp_fp32", "loss_gaps"),
}
"""Words that look like a metric and are something else: public keys, columns of counts, stems."""

_ASKED_IN_A_SOURCE = re.compile(
    r"\b(?:at|last|mean|median|max|min|sum|best|best_step|end|worst_role|worst_layer|layers_at_least|"
    r"measured_layers|type_mean)\(([a-z_0-9]+)(?:/[a-z_]+)?(?:[#>=][^)]*)?\)"
)
_ASKING = {"series_of", "layer_means", "ranked_layers", "heading_of", "spec_of"}
_ASKED = {"metrics", "layer_metrics"}


def asked_names(source: str) -> Iterator[str]:
    """Names in ``source`` that stand where only a metric's can."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _ASKED_IN_A_SOURCE.findall(node.value)
        if isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") in _ASKED:
            yield from _texts([node.slice])
        if isinstance(node, ast.Call):
            called, of = ast.unparse(node.func).rpartition(".")[::2][::-1]
            if called == "get" and of.rpartition(".")[2] in _ASKED:
                yield from _texts(node.args[:1])
            if called in _ASKING:
                yield from _texts(node.args)


def _texts(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition("/")[0]


def near_misses(source: str) -> set[str]:
    """Strings in ``source`` that are almost the name of a metric and are none."""
    return {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"[a-z][a-z0-9_]*_[a-z0-9_]+(/[a-z_]+)?", node.value)
        if (name := node.value.partition("/")[0]) not in METRICS and name not in OWN_WORDS
        if _is_near(name)
    }


def _is_near(name: str) -> bool:
    cut = any(metric.startswith(f"{name}_") or metric.endswith(f"_{name}") for metric in METRICS)
    return cut or bool(difflib.get_close_matches(name, METRICS, n=1, cutoff=0.9))


def _files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_configs" not in path.parts)


def test_every_metric_that_is_asked_for_is_in_the_catalogue() -> None:
    unknown = {
        str(path.relative_to(PACKAGE)): wrong
        for path in _files()
        if (wrong := {name for name in asked_names(path.read_text(encoding="utf-8")) if name not in METRICS})
    }
    assert not unknown


def test_no_string_is_almost_the_name_of_a_metric() -> None:
    wrong = {
        str(path.relative_to(PACKAGE)): near
        for path in _files()
        if (near := near_misses(path.read_text(encoding="utf-8")))
    }
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        'record.metrics["bit_stall"]',
        'log.layers_at; record.layer_metrics.get("gradient_cosinus/weights")',
        'columns = ["mean(update_transfers)[{}]"]',
        'column = f"{name}: layers_at_least(zero_update>=0.99)"',
        'series_of(log, "validation_losses")',
    ],
)
def test_a_name_that_matches_nothing_would_be_found(source: str) -> None:
    assert set(asked_names(source)) - set(METRICS)


@pytest.mark.parametrize("name", ["persistent_stall", "zero_updates_fraction", "gradient_clip_norms"])
def test_a_near_miss_would_be_found(name: str) -> None:
    assert near_misses(f"_WATCHED = ({name!r}, 'loss')") == {name}


def test_roles_are_no_metrics() -> None:
    assert not set(ROLES) & set(METRICS)
