"""Files and folders are written whole or not at all, and what killed processes leave goes away."""

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from pyro_pmf import files
from pyro_pmf.files import CHECKSUMS, clear_up, standing, verify, write_file, write_folder

DEAD = 2**22 + 1  # no process has this number: Linux counts to 2^22


def writer(**contents):
    def write(folder):
        for name, text in contents.items():
            (folder / name).write_text(text)

    return write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def left_over(target, end, process=DEAD, host=None):
    """Make a folder as a process leaves it that was killed while it wrote the target."""
    folder = target.with_name(f".{target.name}.{host or files._HOST}-{process}-0123abcd.{end}")
    folder.mkdir()
    (folder / "a").write_text("left over")
    return folder


def test_a_folder_has_checksums_that_other_programs_can_check(tmp_path):
    write_folder(tmp_path / "x", writer(a="1", b="2"))
    assert names(tmp_path / "x") == [CHECKSUMS, "a", "b"]
    assert verify(tmp_path / "x") == ["a", "b", CHECKSUMS]
    subprocess.run(["sha256sum", "--check", "--strict", CHECKSUMS], cwd=tmp_path / "x", check=True)
    assert names(tmp_path) == ["x"]


def test_a_folder_replaces_another_and_deletes_no_other_file(tmp_path):
    target = tmp_path / "x"
    write_folder(target, writer(a="1"))
    write_folder(target, writer(b="2"), replaced=["a", CHECKSUMS])
    assert names(target) == [CHECKSUMS, "b"]
    assert names(tmp_path) == ["x"]
    (target / "precious").write_text("x")  # comes after the caller has looked
    write_folder(target, writer(c="3"), replaced=["b", CHECKSUMS])
    assert names(target) == [CHECKSUMS, "c"]
    assert next(tmp_path.glob("*/precious")).read_text() == "x"


@pytest.mark.parametrize("step", ["write", "fsync", "rename", "second rename", "interrupt"])
def test_a_write_that_fails_leaves_the_old_folder(tmp_path, monkeypatch, step):
    target = tmp_path / "x"
    write_folder(target, writer(a="1"))
    calls = []

    def fail(*args):
        calls.append(args)
        if step == "second rename" and len(calls) != 2:
            return os.replace(*args)
        error = KeyboardInterrupt if step == "interrupt" else OSError
        raise error(errno.ENOSPC, "No space left on device")

    def half(folder):
        (folder / "a").write_text("2")
        fail()

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(os, "fsync", fail)
        elif "rename" in step:
            patch.setattr(type(target), "rename", fail)
        write = half if step in ("write", "interrupt") else writer(a="2")
        with pytest.raises((OSError, KeyboardInterrupt), match="No space"):
            write_folder(target, write, replaced=["a", CHECKSUMS])
        calls[:] = [None] if step == "second rename" else []
        with pytest.raises((OSError, KeyboardInterrupt), match="No space"):
            write_folder(tmp_path / "y", write)
    assert (target / "a").read_text() == "1"
    assert verify(target) == ["a", CHECKSUMS]
    assert names(tmp_path) == ["x"]


def killed_at(number, target):
    """Write a folder in a process that is killed at an event; return whether it got there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which the child does not use
        child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    events = itertools.count(1)

    def die(event, _):
        if event in ("os.rename", "os.mkdir", "open") and next(events) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    write_folder(target, writer(a="2"), ["a", CHECKSUMS])
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_a_process_that_is_killed_anywhere_leaves_the_old_folder_or_the_new(tmp_path):
    """At each file that is opened, and each folder that is made or renamed."""
    found = []
    for number in itertools.count(1):
        target = tmp_path / str(number) / "x"
        write_folder(target, writer(a="1"))
        got_there = killed_at(number, target)
        verify(standing(target))
        found.append((standing(target) / "a").read_text())
        clear_up(target, ["a", CHECKSUMS])
        assert names(target.parent) == ["x"]
        assert (target / "a").read_text() == found[-1]
        if not got_there:
            break
    assert len(found) > 10
    assert found == sorted(found)
    assert set(found) == {"1", "2"}


def test_what_killed_processes_left_goes_away(tmp_path):
    target = tmp_path / "x"
    write_folder(target, writer(a="1"))
    for end in ("unfinished", "replaced"):
        left_over(target, end)
        left_over(tmp_path / "other", end)
    clear_up(target, ["a", CHECKSUMS])
    assert names(tmp_path)[-1] == "x"
    assert [name.split(".")[1] for name in names(tmp_path)[:-1]] == ["other", "other"]
    assert (target / "a").read_text() == "1"


def test_a_process_killed_between_two_renames_leaves_the_old_folder_beside(tmp_path):
    target = tmp_path / "x"
    assert standing(target) == target
    beside = left_over(target, "replaced")
    assert standing(target) == beside
    clear_up(target, ["a", CHECKSUMS])
    assert names(tmp_path) == ["x"]
    assert (target / "a").read_text() == "left over"


def test_files_of_others_are_not_cleared_up(tmp_path):
    target = tmp_path / "x"
    write_folder(target, writer(a="1"))
    (left_over(target, "replaced") / "precious").write_text("x")
    (tmp_path / ".x.swp").write_text("an editor's")
    (tmp_path / ".x.unfinished").mkdir()
    clear_up(target, ["a", CHECKSUMS])
    assert len(names(tmp_path)) == 4
    assert next(tmp_path.glob(".*/precious")).read_text() == "x"


def test_folders_that_others_are_writing_stay(tmp_path):
    target = tmp_path / "x"
    running = left_over(target, "unfinished", process=os.getppid())
    abroad = left_over(target, "unfinished", host="0" * 8)
    ours = left_over(
        target, "unfinished", process=os.getpid()
    )  # by an earlier life of this number
    clear_up(target, ["a"])
    assert running.exists()
    assert abroad.exists()
    assert not ours.exists()
    os.utime(abroad, (time.time() - 90_000,) * 2)
    clear_up(target, ["a"])
    assert not abroad.exists()


def test_two_at_once_leave_one_of_both(tmp_path):
    """The folder that this process is writing is not cleared up by another thread's write."""
    target = tmp_path / "x"

    def write(folder):
        (folder / "a").write_text("1")
        clear_up(target, ["a", CHECKSUMS])
        assert (folder / "a").exists()

    write_folder(target, write)
    assert verify(target) == ["a", CHECKSUMS]


@pytest.mark.parametrize("text", ["", "\n", "x", "0" * 64 + "  a\n", "é", "\xff"])
def test_checksums_that_are_none(tmp_path, text):
    write_folder(tmp_path / "x", writer(a="1"))
    (tmp_path / "x" / CHECKSUMS).write_text(text, encoding="latin-1")
    with contextlib.suppress(ValueError):
        assert "a" not in verify(tmp_path / "x")  # the caller knows which files there must be


def test_a_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda n: (order.append("fsync"), fsync(n)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    write_file(tmp_path / "a", b"1")
    assert order == ["fsync", "replace", "fsync"]
