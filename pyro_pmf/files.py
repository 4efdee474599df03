"""Files and folders that are written whole or not at all, and checked when they are read.

A process that is killed at any moment leaves the old file or folder, or the new one. POSIX cannot
exchange two folders at one stroke, so an old folder is renamed first: for a moment it stands
beside its place, where `standing` finds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

CHECKSUMS = "SHA256SUMS"  # in the format of `sha256sum --check`
_A_DAY = 86_400.0  # seconds after which a folder of another machine counts as abandoned
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_writing: set[str] = set()  # names of the folders that this process is writing


def write_file(path: Path, data: bytes) -> None:
    """Write a file: completely, or not at all.

    The file is written under another name, flushed to the disk, and then renamed.

    Parameters
    ----------
    path : Path
        The file.
    data : bytes
        Its content.

    Raises
    ------
    OSError
        If the file cannot be written. An old file is then left as it was.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def write_folder(
    target: Path, write: Callable[[Path], None], replaced: Collection[str] | None = None
) -> None:
    """Write a folder with checksums of its files: completely, or not at all.

    Parameters
    ----------
    target : Path
        The folder. Folders above it are made.
    write : callable
        Writes the files into a folder that it is given, which lies beside the target.
    replaced : collection of str, optional
        Names of the files of the folder that stands there; they are deleted, and no others.

    Raises
    ------
    OSError
        If the folder cannot be written. An old folder is then left as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{target.name}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    unfinished, aside = (target.with_name(f"{stem}.{end}") for end in ("unfinished", "replaced"))
    _writing.update((unfinished.name, aside.name))
    try:
        unfinished.mkdir()
        write(unfinished)
        names = sorted(file.name for file in unfinished.iterdir())
        (unfinished / CHECKSUMS).write_text(_checksums(unfinished, names), encoding="utf-8")
        mode = unfinished.stat().st_mode & 0o666  # follows the umask, which safetensors does not
        for file in unfinished.iterdir():
            file.chmod(mode)
            _flush(file, must=True)
        _flush(unfinished)
        if replaced is not None:
            target.rename(aside)
        unfinished.rename(target)
        _flush(target.parent)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        _remove(aside, replaced or ())
        _writing.difference_update((unfinished.name, aside.name))


def standing(target: Path) -> Path:
    """Return where a folder is: at its place, or beside it if a process was killed in between."""
    asides = [] if target.exists() else _left_over(target, "replaced")
    return max(asides, key=lambda folder: folder.stat().st_mtime, default=target)


def clear_up(target: Path, names: Collection[str]) -> None:
    """Undo what killed processes left beside a folder; put an old folder back in its place.

    Parameters
    ----------
    target : Path
        The folder.
    names : collection of str
        All names of files that such folders may have; no other file is deleted.

    Raises
    ------
    OSError
        If the old folder cannot be put back.
    """
    for folder in filter(_is_abandoned, _left_over(target, "unfinished")):
        shutil.rmtree(folder, ignore_errors=True)
    found = standing(target)
    if found != target and _is_abandoned(found):
        found.rename(target)
    for folder in filter(_is_abandoned, _left_over(target, "replaced")):
        _remove(folder, names)


def verify(folder: Path) -> list[str]:
    """Compare the files of a folder with their checksums.

    Parameters
    ----------
    folder : Path
        A folder of `write_folder`.

    Returns
    -------
    list of str
        Names of the files that have a checksum, and that of the checksums.

    Raises
    ------
    ValueError
        If a file has changed or is missing.
    OSError
        If a file cannot be read.
    """
    held = (folder / CHECKSUMS).read_bytes()
    names = re.findall(r"^[0-9a-f]{64}  ([\w.-]+)$", held.decode(), flags=re.MULTILINE)
    if len(names) > len(set(names)):
        raise ValueError(f"{CHECKSUMS} names a file twice")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    now = _checksums(folder, names)
    if now.encode() != held:
        lines = set(held.decode().splitlines())
        wrong = [line[66:] for line in now.splitlines() if line not in lines]
        raise ValueError(f"{', '.join(wrong) or CHECKSUMS} is not what was saved")
    return [*names, CHECKSUMS]


def _checksums(folder: Path, names: Collection[str]) -> str:
    """Return a line with the SHA-256 of each file."""
    lines = []
    for name in names:
        with open(folder / name, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def _flush(path: Path, must: bool = False) -> None:
    """Flush a file, or the names in a folder, to the disk; a folder where the system can."""
    with contextlib.nullcontext() if must else contextlib.suppress(OSError):
        number = os.open(path, os.O_RDWR if must else os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _left_over(target: Path, end: str) -> list[Path]:
    """Return the folders beside a target that were made while it was written."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}-\d+-[0-9a-f]{{8}}\.{end}")
    if not target.parent.is_dir():
        return []
    return [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]


def _is_abandoned(folder: Path) -> bool:
    """Return whether the process that made a folder runs no more."""
    host, process, _ = folder.name.split(".")[-2].split("-")
    if host != _HOST:
        return time.time() - folder.stat().st_mtime > _A_DAY
    if int(process) == os.getpid():
        return folder.name not in _writing
    return not psutil.pid_exists(int(process))


def _remove(folder: Path, names: Collection[str]) -> None:
    """Delete files by name, and the folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
