"""The error tree: what each error also is, what it says, and that it travels."""

import pickle

import pytest

import bpetok
from bpetok import errors

BUILT_IN = {
    "VocabError": ValueError,
    "PatternError": ValueError,
    "FormatError": ValueError,
    "DataError": ValueError,
    "SpecialTokenError": ValueError,
    "UnknownTokenError": KeyError,
    "UnknownIdError": KeyError,
    "IdRangeError": OverflowError,
    "EncodingError": ValueError,
    "UnavailableError": OSError,
    "CorruptionError": ValueError,
    "IncompatibleError": ValueError,
    "MemoryLimitError": MemoryError,
    "WorkerError": RuntimeError,
}


def test_the_tree_has_these_classes_and_no_others():
    classes = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert classes == {*BUILT_IN, "BpetokError", "MissingExtraError"}
    assert classes <= set(bpetok.__all__)


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_error_is_also_the_built_in_one(name):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.BpetokError)
    assert issubclass(kind, BUILT_IN[name])
    with pytest.raises(BUILT_IN[name], match="what is wrong"):
        raise kind("what is wrong", hint="what to do")


@pytest.mark.parametrize("name", [*BUILT_IN, "BpetokError"])
def test_each_error_says_what_is_wrong_and_then_what_to_do(name):
    kind = getattr(errors, name)
    assert str(kind("what is wrong")) == "what is wrong"
    assert str(kind("what is wrong", hint="what to do")) == "what is wrong\nhint: what to do"


@pytest.mark.parametrize("name", [*BUILT_IN, "BpetokError"])
@pytest.mark.parametrize("hint", [None, "what to do"])
def test_each_error_crosses_a_process_border_with_its_hint(name, hint):
    error = getattr(errors, name)("what is wrong", hint=hint)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.message, again.hint) == (type(error), str(error), "what is wrong", hint)


def test_a_missing_extra_names_the_command():
    error = errors.MissingExtraError("lm")
    assert isinstance(error, ImportError)
    assert error.extra == "lm"
    assert 'pip install "bpetok[lm]"' in str(error)


@pytest.mark.parametrize("hint", [None, "do this"])
def test_a_missing_extra_crosses_a_process_border_whole(hint):
    error = errors.MissingExtraError("lm", hint=hint)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.extra, str(again)) == (type(error), "lm", str(error))


def test_the_drawing_at_the_top_shows_every_class_and_its_built_in():
    for name, built_in in (BUILT_IN | {"MissingExtraError": ImportError}).items():
        line = next(line for line in errors.__doc__.splitlines() if name in line)
        assert built_in.__name__ in line.split()
