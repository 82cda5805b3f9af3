"""What ``sweep.json`` holds, and what of it is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.commands.arguments import split_config_and_overrides
from altgrad_cli.config.loading import load_config
from altgrad_cli.errors import UsageError
from altgrad_cli.reporting.evidence.scope import gather
from altgrad_cli.sweeps.plan import plan_sweep
from altgrad_cli.sweeps.results import assemble, read_spec, read_sweep, write_sweep
from tests.sweeps.conftest import spec


def test_a_plan_read_back_is_the_plan(tmp_path: Path) -> None:
    asked = spec(order=("E1M6", "E7M0"), seeds=(1, 2), axes=(("nan_policy", ("auto", "patience")),))
    write_sweep(assemble(tmp_path, asked, {}), "running")
    assert read_spec(tmp_path) == asked
    read = read_sweep(tmp_path)
    assert read.state == "running"
    kept = ("name", "kind", "retry_of", "reason", "controls")
    for arm in plan_sweep(asked, {}):
        assert [getattr(read.arms[arm.name], key) for key in kept] == [getattr(arm, key) for key in kept]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "altgrad.sweep/2"}, "schema 'altgrad.sweep/2'"),
        ({"arms": [3]}, "holds no plan"),
        ({"arms": [{"kind": "control"}]}, "holds no plan"),
        ({"arms": [{"name": "a", "kind": "control", "controls": 3}]}, "holds no plan"),
        ({"arms": [{"name": "../../x", "kind": "control"}]}, "not a name for a run"),
    ],
)
def test_a_later_or_damaged_sweep_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_sweep(assemble(tmp_path, spec(), {}), "running")
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=message):
        gather([tmp_path])
    if "schema" in change:
        with pytest.raises(UsageError, match=message):
            read_spec(tmp_path)


def test_the_command_line_of_a_sweep_asks_for_the_same_base() -> None:
    asked = spec(
        base=load_config("base", ["learning_rate=1e-3", "precision.rounding=stochastic"]), seeds=(7,)
    )
    words = shlex.split(asked.command_line())
    assert words[:6] == ["altgrad", "sweep", "--order", "e5m2,e3m4,e1m6,e0m7,e7m0", "--seeds", "7"]
    name, overrides = split_config_and_overrides(words[6:])
    assert load_config(name, overrides) == asked.base
