"""Command lines at random, a few of those that `make fuzz` tries."""

from fuzz.generated_commands import attempt, inputs
from hypothesis import given, settings


@settings(max_examples=60)
@given(inputs())
def test_each_command_ends_with_an_answer_or_a_clear_line(arguments):
    assert attempt(arguments).split(": ")[1] in ("answered", "refused")
