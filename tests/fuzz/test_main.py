"""The program of `make fuzz`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_prints_how_many_of_which_kinds():
    command = [sys.executable, "tests/fuzz", "15"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sums = re.findall(r"^ +(\d+)  (?:.*, in \d+ s|inputs, none .*)$", shown, re.MULTILINE)
    ends = re.findall(r"^ +(\d+)  [a-z-]+: .*$", shown, re.MULTILINE)
    assert sums == ["5", "5", "5", "15"]
    assert sum(map(int, ends)) == 15
    answered = re.search(r"command lines, (\d+)% answered", shown)
    assert answered is not None
    assert int(answered[1]) >= 30
