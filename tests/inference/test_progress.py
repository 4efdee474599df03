"""Progress on a terminal, in a notebook and in a log, and what a real process prints."""

import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tqdm.auto import tqdm

from pyro_pmf.inference import progress
from pyro_pmf.inference.progress import LoggedProgress, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="pyro_pmf")

    def since() -> list[str]:
        assert {(each.name, each.levelname) for each in caplog.records} <= {("pyro_pmf", "INFO")}
        found = [each.getMessage() for each in caplog.records]
        caplog.clear()
        return found

    return since


def test_a_line_every_few_seconds_and_one_at_the_end(clock, lines):
    with LoggedProgress("fit", 2000, "step") as bar:
        for _ in range(12):
            clock.seconds += 1
            bar.update()
        assert lines() == [
            "fit: step 5 of at most 2,000, 5 s",
            "fit: step 10 of at most 2,000, 10 s",
        ]
        bar.set_postfix_str("ELBO -12.3", refresh=False)
        clock.seconds += 60
        bar.update(1500)
        assert lines() == ["fit: step 1,512 of at most 2,000, 72 s, ELBO -12.3"]
    assert lines() == ["fit: ended after 1,512 steps, 72 s, ELBO -12.3"]


def test_a_quick_fit_has_one_line_and_a_failed_one_none(clock, lines):
    with LoggedProgress("scales", None, "sweep") as bar:
        bar.update()
    assert lines() == ["scales: ended after 1 sweep, 0 s"]
    with pytest.raises(ZeroDivisionError), LoggedProgress("fit", 9, "step") as bar:
        bar.update(1 // 0)
    assert lines() == []


def test_who_is_watched(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    for stream, watched in (
        (SimpleNamespace(isatty=lambda: True), True),
        (SimpleNamespace(isatty=lambda: False), False),
        (None, False),  # under pythonw, say
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        assert progress._is_watched() is watched
    for shell, watched in (
        (SimpleNamespace(config={"IPKernelApp": {}}), True),  # Jupyter
        (SimpleNamespace(config={"TerminalIPythonApp": {}}), False),  # ipython 2> file
        (None, False),  # imported, but not running
    ):
        ipython = SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        assert progress._is_watched() is watched


@pytest.mark.parametrize(("shown", "watched"), [(True, True), (False, True), (False, False)])
def test_a_bar_where_somebody_watches(shown, watched, monkeypatch, capsys, lines):
    monkeypatch.setattr(progress, "_is_watched", lambda: watched)
    with progress_bar("fit", shown, 3, "step") as bar:
        assert isinstance(bar, tqdm)
        bar.update(3)
    assert ("3/3" in capsys.readouterr().err) is shown
    assert lines() == []


# A real process


FIT = """
import logging, os, sys
from pyro_pmf import PMF, VI, Gibbs, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference import progress

def fits():
    fit(PMF(1), ratings, Gibbs(n_chains=1, n_warmup=2, n_draws=4, thin=1))
    fit(PMF(1), ratings, VI(max_steps=4))

progress._EVERY = 0
ratings, _ = simulate(PMF(1), n_users=15, n_items=10, n_ratings=100)
fits()
print("configured", file=sys.stderr, flush=True)
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
fits()
if len(sys.argv) > 1:
    os.dup2(int(sys.argv[1]), 2)
    fit(PMF(1), ratings, VI(max_steps=4, learn_scales=None))
"""


@pytest.fixture(scope="module")
def printed():
    """What a process prints that nobody watches, at last what it shows on a terminal."""
    command, options = [sys.executable, "-W", "ignore", "-c", FIT], {"capture_output": True}
    ours = theirs = None
    try:
        import termios

        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        command, options = [*command, str(theirs)], {**options, "pass_fds": [theirs]}
    except ImportError:  # on Windows
        pass
    done = subprocess.run(command, text=True, check=True, **options)
    shown = None if ours is None else b""
    if ours is not None:
        os.close(theirs)
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # Linux says so at the end
            pass
        os.close(ours)
    return done.stdout, done.stderr, shown


@pytest.mark.slow
def test_an_unattended_fit_prints_nothing_unless_logging_is_configured(printed):
    out, err, _ = printed
    assert out == ""
    silent, logged = err.split("configured\n")
    assert silent == ""
    line = re.compile("pyro_pmf INFO (fit|scales|sample):")
    found = [x for x in logged.splitlines() if line.match(x)]
    assert re.fullmatch(
        r"pyro_pmf INFO fit: step 1 of at most 4, \d+ s, ELBO -?[\d,.]+",
        next(x for x in found if "fit: step" in x),
    )
    assert "sample: ended after 6 draws" in next(x for x in found if "sample: ended" in x)
    assert sum(bool(re.search(r"scales: ended after \d+ sweeps", x)) for x in found) == 1
    assert "fit: ended after 4 steps" in found[-1]
    assert "\r" not in logged


@pytest.mark.slow
def test_a_fit_on_a_terminal_has_a_bar_and_no_lines(printed):
    """Though logging is configured."""
    *_, shown = printed
    if shown is None:
        pytest.skip("no terminals here")
    text = shown.decode()
    assert "4/4" in text
    assert "fit: ended" not in text
