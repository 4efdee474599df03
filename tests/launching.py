"""Start some processes of a script, as torchrun does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def launch(script: str, folder: Path, part: str, size: int = 2) -> tuple[list[int], float]:
    """Run a part of a script in several processes.

    Each is ``python script FOLDER PART``; RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which
    it is. Its output goes to FOLDER/PART-RANK.log.

    Parameters
    ----------
    script : str
        The script.
    folder : Path
        Where the processes leave what they found.
    part : str
        What they do.
    size : int
        Number of processes.

    Returns
    -------
    codes : list of int
        Exit codes.
    seconds : float
        How long it took.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    processes = []
    for rank in range(size):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = os.environ | {name: str(value) for name, value in world.items()}
        path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        command = [sys.executable, script, str(folder), part]
        with (folder / f"{part}-{rank}.log").open("w") as log:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
    codes = [process.wait(timeout=300) for process in processes]
    return codes, time.monotonic() - start


def log_of(folder: Path, part: str) -> str:
    """Return the output of all processes of a part."""
    return "\n".join(path.read_text() for path in sorted(folder.glob(f"{part}-*.log")))
