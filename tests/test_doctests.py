"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import bpetok
import cli
import lm
from bpetok.errors import MissingExtraError

MODULES = [
    name
    for package in (bpetok, lm, cli)
    for name in (
        package.__name__,
        *(found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
    )
    if not name.endswith(".__main__")  # which runs the command line when imported
]
WITH_EXAMPLES = {
    "bpetok",
    "bpetok.counts",
    "bpetok.encodings",
    "bpetok.patterns",
    "bpetok.reference",
    "bpetok.streams",
    "bpetok.text",
    "bpetok.tokenizer",
    "bpetok.training",
    "bpetok.vocab",
    "lm.alphabet",
    "lm.autograd",
    "lm.batches",
    "lm.config",
    "lm.drawing",
    "lm.examples",
    "lm.microgpt",
    "lm.models",
    "lm.models.attention",
    "lm.models.bigram",
    "lm.models.gpt2",
    "lm.models.layers",
    "lm.moons",
    "lm.ngram",
    "lm.schedule",
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except MissingExtraError as error:
        pytest.skip(f"{name}: {error.message}; {error.hint}")
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted > 0 or name not in WITH_EXAMPLES


def test_the_modules_with_examples_are_found() -> None:
    assert set(MODULES) >= WITH_EXAMPLES
