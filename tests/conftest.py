"""What every test may ask for: the shared real data, one thread, a cache of its own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from altgrad_cli.config.run import TrainConfig
from tests.small import small

# Results are pinned for one thread, and several pytest workers share the machine's cores.
# Set before anything imports torch; a test that changes the count is undone below.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

# No test depends on how fast the machine is.
settings.register_profile("altgrad", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("altgrad")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
SHARED_DATA = SHARED / "data"


def needed(module: str) -> ModuleType:
    """The module of an extra: without it the test is skipped, with ``CI=true`` it fails."""
    if os.environ.get("CI") == "true":
        return importlib.import_module(module)
    found: ModuleType = pytest.importorskip(module)
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Every test starts with one torch thread; torch is not imported for those that do without it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def _isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, uses the user's account, or depends on the terminal."""
    monkeypatch.setenv("ALTGRAD_CACHE", str(tmp_path / "altgrad-cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_API_KEY", "ALTGRAD_DEBUG", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


def _shared_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        reason = f"the shared folder is absent: {folder}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real legal text beside the repository.

    Skips with a reason where the folder is absent, and fails in CI, where it has to be there.
    """
    return _shared_folder("data")


@pytest.fixture(scope="session")
def field_cases() -> Path:
    """The folder of files that users of such tools really have; as ``shared_data`` where it is absent."""
    return _shared_folder("field-cases")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., TrainConfig]:
    """``tiny("fp8_format=E7M0", ...)``: the config of the one small run, see ``tests.small``."""
    return small


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that a claim is held on."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return str(request.param)


@pytest.fixture
def in_tmp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, left again after the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
