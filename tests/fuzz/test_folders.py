"""A hundred altered folders; `make fuzz` tries thousands."""

import pytest
from fuzz.folders import inputs, try_one
from hypothesis import given, settings


@pytest.mark.slow
@given(inputs())
@settings(max_examples=100)
def test_an_altered_folder_is_refused_or_answers(alteration):
    assert try_one(alteration).split(": ")[1] in ("refused", "the same", "another posterior")
