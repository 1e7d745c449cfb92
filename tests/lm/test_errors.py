import inspect

import pytest

import lm.errors
from bpetok.errors import BpetokError
from lm.errors import ConfigError, LmError, require


def test_every_error_of_lm_stands_in_the_tree_and_in_its_drawing() -> None:
    drawing = lm.errors.__doc__ or ""
    kinds = [kind for _, kind in inspect.getmembers(lm.errors, inspect.isclass) if kind.__module__ == "lm.errors"]
    assert len(kinds) == 7
    for kind in kinds:
        assert issubclass(kind, LmError) and issubclass(kind, BpetokError)
        assert f" {kind.__name__}" in drawing


def test_require_says_what_was_expected_and_what_came() -> None:
    require(True, "batch.rows", "at least 1", 0)
    with pytest.raises(ConfigError, match=r"^batch.rows must be at least 1, got 0\nhint: one row will do$"):
        require(False, "batch.rows", "at least 1", 0, "one row will do")
