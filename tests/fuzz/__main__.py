"""Try many generated inputs and print how many ended how: `make fuzz`.

A share is that of the inputs of one kind, such as of one command.
`python tests/fuzz 1000` tries a thousand. Each run tries other inputs. The first one that ends
otherwise than by an answer or a `PMFError` is made as small as possible, and its error ends the
run.
"""

from __future__ import annotations

import collections
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import folders
import generated_commands
import generated_tables
import hypothesis
from hypothesis.strategies import SearchStrategy

# What makes the inputs, and what tries one and says how it ended.
GENERATORS: dict[str, tuple[SearchStrategy[Any], Callable[[Any], str]]] = {
    "tables, files and questions": (
        generated_tables.inputs,
        lambda drawn: generated_tables.attempt(*drawn),
    ),
    "altered folders": (folders.inputs(), folders.try_one),
    "command lines": (generated_commands.inputs(), generated_commands.attempt),
}


def ends_of(
    inputs: SearchStrategy[Any], try_one: Callable[[Any], str], n: int
) -> collections.Counter[str]:
    """Try n inputs and count how they ended."""
    ends: collections.Counter[str] = collections.Counter()

    @hypothesis.settings(
        max_examples=n,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs)
    def run(drawn: Any) -> None:
        ends[try_one(drawn)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    return ends


def main(n: int) -> None:
    """Try n inputs, shared evenly by the generators."""
    tried = 0
    for k, (name, (inputs, try_one)) in enumerate(GENERATORS.items()):
        started = time.perf_counter()
        ends = ends_of(inputs, try_one, max(1, (n + k) // len(GENERATORS)))
        kinds = collections.Counter[str]()
        for end, count in ends.items():
            kinds[end.partition(":")[0]] += count
        for end, count in sorted(ends.items()):
            share = count / kinds[end.partition(":")[0]]
            print(f"{count:8,}  {end} ({share:.0%})")
        seconds = time.perf_counter() - started
        answered = sum(count for end, count in ends.items() if end.endswith("answered"))
        share = f", {answered / ends.total():.0%} answered" if answered else ""
        print(f"{ends.total():8,}  {name}{share}, in {seconds:.0f} s\n", flush=True)
        tried += ends.total()
    print(f"{tried:8,}  inputs, none of which ended otherwise")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
