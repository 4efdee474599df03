"""Run one method on one split, in its own process, and print a line of JSON."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import split
from benchmarks.methods import BY_KEY
from benchmarks.predictor import Stopwatch, rmse


def main() -> None:
    """Fit, predict, and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=BY_KEY, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--curve", action="store_true", help="score the progress of the fit")
    parser.add_argument("--predictions", type=Path, help="save them here, as .npy")
    options = parser.parse_args()

    method = BY_KEY[options.method]
    fit = importlib.import_module(f"benchmarks.peers.{method.module}").fit
    train, test = split(options.data, options.seed, options.sample)

    watch = Stopwatch(test, recording=options.curve)
    memory_before = start_memory_peak()
    watch.start()
    predictor = fit(train, options.seed, watch, **method.options)
    fit_seconds = watch.stop()
    peak = memory("VmHWM")

    times = []
    for _ in range(3):
        started = time.perf_counter()
        mean = test.clip(predictor.mean(test))
        times.append(time.perf_counter() - started)
    log_density = predictor.log_density(test)
    watch.note(fit_seconds, mean)
    if options.predictions:
        np.save(options.predictions, mean)
    result: dict[str, Any] = {
        "n_train": len(train),
        "n_test": len(test),
        "n_users": train.n_users,
        "n_items": train.n_items,
        "n_unknown": int(np.sum((test.user < 0) | (test.item < 0))),
        "rmse": rmse(test, mean),
        "mae": float(np.mean(np.abs(test.rating - mean))),
        "nll": None if log_density is None else float(-log_density.mean()),
        "fit_seconds": fit_seconds,
        "predictions_per_second": len(test) / float(np.median(times)),
        "peak_mib": peak,
        "fit_mib": peak - memory_before,
        "curve": [[round(seconds, 4), round(error, 5)] for seconds, error in watch.curve],
    }
    print(json.dumps(result))


def start_memory_peak() -> float:
    """Reset the peak of the resident memory, if the system can; return the present value, MiB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(field: str) -> float:
    """Return resident memory in MiB: VmRSS is the present value, VmHWM the peak.

    Without /proc both return the peak of the process, which may include the peak of its parent.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib


if __name__ == "__main__":
    main()
