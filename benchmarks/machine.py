"""The machine and the package versions that a report names."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.methods import METHODS

MODULES = ("pyro_pmf", "pyro", "torch", "myfm", "surprise", "cornac", "cmfrec")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def describe() -> dict[str, str]:
    """Describe the machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    limits = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    return {
        "processor": _processor(),
        "cores": str(_cores()),
        "threads": ", ".join(limits) or f"no limit set; torch uses {torch.get_num_threads()}",
        "memory": f"{memory:.0f} GiB",
        "GPU": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the version of each distribution that the methods use."""
    names = {name for method in METHODS for name in method.packages}
    return {name: _version(name) for name in sorted(names | {"numpy", "scipy", "pandas"})}


def import_seconds() -> dict[str, float]:
    """Return the seconds that each package takes to import, the shorter of two times."""
    return {module: min(_import_seconds(module) for _ in range(2)) for module in MODULES}


def _import_seconds(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return float("nan") if done.returncode else float(done.stdout.splitlines()[-1])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cores() -> int | None:
    """Return the number of cores that this process may use, or of all cores if unknown."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
