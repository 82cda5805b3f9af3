"""One recorded sweep for all tests of a session; those that change files make their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from altgrad_cli.reporting.evidence.scope import Scope, gather
from tests.reporting.recorded import record_sweep
from tests.sweeps.conftest import write_log as write_log


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_sweep(tmp_path_factory.mktemp("recorded") / "sweep")


@pytest.fixture(scope="session")
def scope(sweep: Path) -> Scope:
    return gather([sweep])
