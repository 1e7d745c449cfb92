"""Every example in a docstring of bpetok runs."""

import doctest
import importlib
import pkgutil

import pytest

import bpetok

FOUND = {module.name for module in pkgutil.walk_packages(bpetok.__path__, "bpetok.")}
MODULES = ["bpetok", *sorted(FOUND - {"bpetok.__main__"})]  # which runs the command line when imported
WITH_EXAMPLES = {
    "bpetok",
    "bpetok.counts",
    "bpetok.encodings",
    "bpetok.patterns",
    "bpetok.reference",
    "bpetok.streams",
    "bpetok.tokenizer",
    "bpetok.training",
    "bpetok.vocab",
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0
    if name in WITH_EXAMPLES:
        assert results.attempted > 0


def test_the_modules_with_examples_are_found():
    assert set(MODULES) >= WITH_EXAMPLES
