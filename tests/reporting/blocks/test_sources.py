from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altgrad_cli.errors import UsageError
from altgrad_cli.reporting.blocks.sources import CITED, Source, cited, parse_source, without_sources

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("e7m0: verdict", Source(("e7m0",), "verdict")),
        ("e7m0: at(loss)@5", Source(("e7m0",), "at", "loss", None, 5, 5)),
        (
            "a: mean(overflow_rate/gradients)[blocks.0.attn.c_attn]@451-500",
            Source(("a",), "mean", "overflow_rate/gradients", "blocks.0.attn.c_attn", 451, 500),
        ),
        (
            "a,b: average recovered_fraction@500",
            Source(("a", "b"), "recovered_fraction", None, None, 500, 500, "average"),
        ),
        ("a,b: number", Source(("a", "b"), "", over="number")),
        ("rule: trained.from", Source(("rule",), "trained.from")),
        (
            "a: layers_at_least(zero_update_fraction>=0.99)@1-9",
            Source(("a",), "layers_at_least", "zero_update_fraction>=0.99", None, 1, 9),
        ),
    ],
)
def test_a_source_is_read(text: str, source: Source) -> None:
    assert parse_source(text) == source


@given(
    runs=st.lists(NAMES, min_size=1, max_size=3),
    over=st.none() | st.sampled_from(["average", "deviation", "leader"]),
    quantity=st.sampled_from(["at", "mean", "config.learning_rate"]),
    argument=st.none() | st.sampled_from(["loss", "overflow_rate/gradients"]),
    layer=st.none() | st.sampled_from(["lm_head", "blocks.0.mlp.c_fc"]),
    last=st.integers(3, 9),
)
def test_every_part_is_read_whatever_the_others_are(
    runs: list[str], over: str | None, quantity: str, argument: str | None, layer: str | None, last: int
) -> None:
    text = f"{','.join(runs)}: {f'{over} ' if over else ''}{quantity}{f'({argument})' if argument else ''}"
    text += f"[{layer}]@3-{last}" if layer else f"@3-{last}"
    assert parse_source(text) == Source(tuple(runs), quantity, argument, layer, 3, last, over)


@pytest.mark.parametrize(
    "text", ["", "verdict", "a:", "a: ", "a: mean(loss", "a: mean(loss)@x", "a: mean loss"]
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not the source of a number"):
        parse_source(text)


@given(st.text(min_size=1).filter(str.isprintable))
def test_cited_text_comes_back_whatever_it_holds(text: str) -> None:
    match = CITED.fullmatch(cited(text, "run: reason"))
    assert match is not None
    assert html.unescape(match["text"]) == text
    assert "`" not in match["text"]


def test_without_sources_leaves_the_sentence() -> None:
    sentence = f"rho is {cited('0.18', 'e7m0: recovered_fraction@500')}, no *more*."
    assert without_sources(sentence) == "rho is 0.18, no *more*."
