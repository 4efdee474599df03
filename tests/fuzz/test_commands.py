"""Command lines, a few of those that `make fuzz` tries."""

from fuzz.generated_commands import attempt, inputs
from hypothesis import given, settings


@settings(max_examples=20)
@given(inputs())
def test_each_command_ends_with_an_answer_or_a_clear_line(command):
    assert attempt(command).split(": ")[1] in ("answered", "refused")
