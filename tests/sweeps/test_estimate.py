"""A dry run is bounded: what it times is within reach, whatever was asked for, and it says what that was."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from altgrad_cli.commands.app import app
from altgrad_cli.config.loading import load_config
from altgrad_cli.sweeps import estimate
from altgrad_cli.sweeps.estimate import _within_reach

VOCABULARY = 50_257
MOST = estimate._MOST_WORK["cpu"]


@pytest.mark.parametrize("name", ["smoke", "base", "e7m0_uniform"])
def test_a_run_of_the_usual_size_is_timed_as_it_is(name: str) -> None:
    config = load_config(name)
    assert _within_reach(config, 256, MOST) == (config, [])


@pytest.mark.parametrize(
    "overrides",
    [
        ["batch_size=65536", "model.block_size=256"],
        ["batch_size=1", "model.block_size=65536"],
        ["batch_size=1", "model.n_layer=60", "model.n_embd=3600", "model.n_head=60"],
        ["batch_size=1", "model.n_layer=1", "model.n_embd=28000", "model.n_head=7"],
        ["batch_size=256", "model.n_layer=1024", "model.n_embd=512", "model.block_size=1024"],
    ],
)
def test_a_step_of_any_size_that_may_be_asked_for_is_brought_within_reach(overrides: list[str]) -> None:
    config = load_config("base", overrides)
    reduced, changes = _within_reach(config, VOCABULARY, MOST)
    model = reduced.model
    weights = 12 * model.n_layer * model.n_embd**2 + VOCABULARY * model.n_embd
    assert weights <= 5e7
    assert weights * reduced.batch_size * model.block_size <= MOST
    assert load_config("base", [*overrides, "model.n_head=1", *changes]).model.n_embd == model.n_embd
    assert changes


def test_the_dry_run_says_what_it_measured() -> None:
    arguments = ["train", "smoke", "batch_size=65536", "--dry-run", "--json"]
    plan = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert plan["config"]["batch_size"] == 65536
    words, _, factor = plan["measured"].rpartition(", times ")
    batch = int(words.rpartition("batch_size=")[2])
    assert batch * float(factor) == pytest.approx(65536, rel=0.01)
    assert plan["estimated_seconds"] == plan["seconds_per_step"] * plan["config"]["max_steps"]
