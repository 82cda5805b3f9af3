"""A run small enough that a whole command takes a second, for the tests of the commands."""

from __future__ import annotations

import pytest

from tests.sweeps.conftest import write_log as write_log

TEXT = "Article {n}. The Commission shall, by means of act {n}, adopt the measures in Annex {n}.\n\n"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Config and overrides of corpus and network; how long it trains is for the test to say."""
    law = tmp_path_factory.mktemp("corpus") / "law.txt"
    law.write_text("".join(TEXT.format(n=n) for n in range(80)))
    return [
        "smoke",
        f"data.path={law}",
        "model.n_layer=1",
        "model.n_embd=16",
        "model.block_size=16",
        "batch_size=2",
        "runtime.evaluation_batches=1",
    ]
