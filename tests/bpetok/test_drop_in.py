"""`import bpetok as tiktoken`: the module's functions, the class and its members, as tiktoken has them.

tiktoken's own public tests run in place of it as well; CONTRIBUTING.md says how. Here are ours, for the same promises.
"""

import inspect
import pickle

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import PatternError, VocabError

FUNCTIONS = ["get_encoding", "encoding_for_model", "encoding_name_for_model", "list_encoding_names"]
RANKS = {bytes([byte]): byte for byte in range(256)} | {b"lo": 256, b"low": 257}
PARTS = {"pat_str": r"\w+|[^\w]", "mergeable_ranks": RANKS, "special_tokens": {"<s>": 259, "</s>": 258}}
LEFT_OUT = {"_core_bpe"}  # tiktoken's own core; the README's table says so


def arguments(function):
    return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_of_the_module_have_tiktokens_arguments(name):
    theirs = arguments(getattr(tiktoken, name))
    assert arguments(getattr(bpetok, name))[: len(theirs)] == theirs


def test_the_class_has_every_member_of_tiktokens():
    ours, theirs = bpetok.Encoding("ours", **PARTS), tiktoken.Encoding("theirs", **PARTS)
    assert {name for name in dir(theirs) if not name.startswith("__")} - set(dir(ours)) == LEFT_OUT


@pytest.mark.parametrize("name", [name for name in dir(tiktoken.Encoding) if not name.startswith("__")])
def test_the_methods_have_tiktokens_arguments_and_defaults(name):
    theirs = inspect.getattr_static(tiktoken.Encoding, name)
    ours = inspect.getattr_static(bpetok.Encoding, name)
    if not inspect.isfunction(theirs):
        assert not inspect.isfunction(ours)
        return
    assert arguments(ours) == arguments(theirs)
    for mine, other in zip(*(inspect.signature(f).parameters.values() for f in (ours, theirs)), strict=True):
        assert mine.default == other.default


def test_the_constructor_has_tiktokens_arguments():
    assert arguments(bpetok.Encoding.__init__) == arguments(tiktoken.Encoding.__init__)


def test_both_give_the_same_ids_text_and_facts():
    ours, theirs = bpetok.Encoding("x", **PARTS), tiktoken.Encoding("x", **PARTS)
    assert repr(ours) == repr(theirs) == "<Encoding 'x'>"
    for text in ("low lower<s>", "</s>", "", "é 東京\n", "\ud83d"):
        assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all")
        assert ours.encode(text, disallowed_special=()) == theirs.encode(text, disallowed_special=())
        assert ours._encode_bytes(text.encode("utf-8", "replace")) == theirs._encode_bytes(
            text.encode("utf-8", "replace")
        )
        assert ours._encode_single_piece("low") == theirs._encode_single_piece("low")
    assert ours._encode_only_native_bpe("low lower") == theirs._encode_only_native_bpe("low lower")
    facts = (
        "name",
        "n_vocab",
        "max_token_value",
        "special_tokens_set",
        "_pat_str",
        "_special_tokens",
        "_mergeable_ranks",
    )
    for fact in facts:
        assert getattr(ours, fact) == getattr(theirs, fact), fact
    assert type(ours._special_tokens) is type(ours._mergeable_ranks) is dict
    assert set(ours._special_token_values) == set(theirs._special_token_values)


@given(text=st.text(max_size=30), threads=st.sampled_from([1, 8, None]))
def test_batches_take_tiktokens_threads(text, threads):
    ours, theirs = bpetok.Encoding("x", **PARTS), tiktoken.Encoding("x", **PARTS)
    ids = ours.encode_batch([text, "low"], num_threads=threads, allowed_special="all")
    assert ids == theirs.encode_batch([text, "low"], num_threads=threads, allowed_special="all")
    assert ours.decode_batch(ids, num_threads=threads) == theirs.decode_batch(ids, num_threads=threads)


def test_a_pickled_encoding_is_an_encoding():
    ours = pickle.loads(pickle.dumps(bpetok.Encoding("x", **PARTS)))
    assert type(ours) is bpetok.Encoding and ours.name == "x"
    assert ours.encode("low<s>", allowed_special="all") == [257, 259]


def test_what_has_a_name_is_an_encoding_as_users_of_tiktoken_ask(encoding):
    assert isinstance(encoding("gpt2"), bpetok.Encoding)
    assert repr(encoding("gpt2")) == "<Encoding 'gpt2'>"
    assert bpetok.get_encoding(encoding_name="gpt2") == encoding("gpt2")


@pytest.mark.parametrize("library", [bpetok, tiktoken])
def test_the_number_of_tokens_may_be_asserted(library):
    parts = PARTS | {"special_tokens": {"<s>": 258}}
    assert library.Encoding("x", **parts, explicit_n_vocab=259).n_vocab == 259
    with pytest.raises(AssertionError):
        library.Encoding("x", **parts, explicit_n_vocab=260)
    with pytest.raises(AssertionError):
        library.Encoding("x", **PARTS | {"special_tokens": {"<s>": 300}}, explicit_n_vocab=259)


@pytest.mark.parametrize("library", [bpetok, tiktoken])
def test_refusals_are_of_tiktokens_kinds(library):
    encoding = library.Encoding("x", **PARTS)
    with pytest.raises(ValueError):
        library.Encoding("x", **PARTS | {"pat_str": "("})
    with pytest.raises(ValueError):
        encoding.encode("low<s>")
    with pytest.raises(KeyError):
        encoding.encode_single_token("no such token")
    with pytest.raises(KeyError):
        encoding.decode([999])
    with pytest.raises(KeyError):
        print(encoding.eot_token)
    with pytest.raises(OverflowError):
        encoding.decode_bytes([-1])
    with pytest.raises(ValueError):
        library.get_encoding("no such encoding")
    with pytest.raises(KeyError):
        library.encoding_for_model("no such model")
    for wrong in (None, 5):
        with pytest.raises(TypeError):
            encoding.encode(wrong)


def test_what_is_safer_here_is_what_the_readme_says():
    with pytest.raises(VocabError, match="every single byte must be a token"):
        bpetok.Encoding("x", **PARTS | {"mergeable_ranks": {b"a": 0}})
    with pytest.raises(VocabError, match="an id must belong to one token"):
        bpetok.Encoding("x", **PARTS | {"special_tokens": {"<s>": 256}})
    with pytest.raises(VocabError, match="must not be empty"):
        bpetok.Encoding("x", **PARTS | {"special_tokens": {"": 300}})
    with pytest.raises(PatternError, match="does not compile"):
        bpetok.Encoding("x", **PARTS | {"pat_str": "("})
    skipping = bpetok.Encoding("x", **PARTS | {"pat_str": r"\w+"})
    assert skipping.decode(skipping.encode("low, lower!")) == "low, lower!"  # tiktoken loses what a pattern skips
    assert bpetok.Encoding("x", **PARTS).encode_to_numpy("\ud83d").tolist() == list("\ufffd".encode())
