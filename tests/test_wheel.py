"""What `pip install .` and `pipx install .` bring: the package with the configs inside, nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from altgrad_cli.config.loading import shipped_configs

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("altgrad-*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_config(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if name.startswith("altgrad_cli/_configs/")}
    assert inside == {f"altgrad_cli/_configs/{name}.yaml" for name in shipped_configs()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "altgrad_cli").rglob("*.py")}
    names = set(wheel.namelist())
    assert "altgrad_cli/rounding/native/kernel.c" in names
    assert modules <= names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"altgrad_cli"}


def test_the_installed_configs_are_found_inside_the_package(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from altgrad_cli.config.loading import load_config, shipped_folder\n"
        "print(shipped_folder()); print(load_config('gpu/e7m0_uniform').fp8_format)"
    )
    command = [sys.executable, "-I", "-c", probe, str(tmp_path)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [str(tmp_path / "altgrad_cli" / "_configs"), "E7M0"]


def test_the_script_is_named_altgrad(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "altgrad = altgrad_cli.__main__:main" in wheel.read(entry_points).decode()
