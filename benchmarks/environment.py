"""Where a measurement was made: machine, threads, versions."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("altgrad", "torch", "numpy", "ml_dtypes", "gfloat", "qtorch", "pychop", "torchao")


def processor() -> str:
    """The processor's name, as Linux tells it, else the platform's word."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def not_installed() -> list[tuple[str, str]]:
    """The peers that could not be installed into this interpreter's venv, and the installer's word why."""
    file = Path(sys.prefix) / "not-installed.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(peer, why) for peer, _, why in (line.partition("\t") for line in lines)]


def describe() -> list[str]:
    """Lines for the head of a report."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} absent")
    load = os.getloadavg()[0]
    machine = f"{processor()}, {os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()}"
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return [
        f"{machine}; {torch.get_num_threads()} threads used; load average at the end {load:.1f}",
        f"{system}; {', '.join(versions)}",
    ]
