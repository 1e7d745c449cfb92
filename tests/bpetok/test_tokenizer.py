"""Tokenizer: everything that `tiktoken.Encoding` does, done the same, and what goes beyond it."""

import gc
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

import bpetok

TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(["lo", "wer", " the", "ʰA", "東京", "'LL", "12345", "  ", "\n", "🙂", "é", "<|fim|>"])
    ).map("".join),
)
ANY_TEXT = st.one_of(TEXTS, st.text(st.characters(codec=None), max_size=20))  # lone surrogates too
ANY_BYTES = st.one_of(TEXTS.map(str.encode), st.binary(max_size=60))
EOT = "<|endoftext|>"

# The table A7 of what users of tiktoken reach for; test_drop_in.py compares with all that tiktoken has.
MEMBERS = [
    "encode",
    "encode_ordinary",
    "encode_to_numpy",
    "encode_batch",
    "encode_ordinary_batch",
    "encode_single_token",
    "decode",
    "decode_bytes",
    "decode_single_token_bytes",
    "decode_tokens_bytes",
    "decode_with_offsets",
    "decode_batch",
    "decode_bytes_batch",
    "token_byte_values",
    "eot_token",
    "special_tokens_set",
    "is_special_token",
    "n_vocab",
    "max_token_value",
    "name",
    "_special_tokens",
    "_mergeable_ranks",
    "_pat_str",
    "_encode_single_piece",
    "_encode_bytes",
    "encode_with_unstable",
]


@pytest.fixture(params=["bpetok", "tiktoken"])
def either(request, small, small_tiktoken):
    """Both libraries with one vocabulary: what holds for one must hold for the other."""
    return {"bpetok": small, "tiktoken": small_tiktoken}[request.param]


@pytest.fixture(scope="module")
def by_regex(small_text):
    """A vocabulary whose pattern has no scanner."""
    return bpetok.train(small_text, 400, pattern=r"\w+|\s+", special_tokens=[EOT, "<|fim|>"])


# ---- the members of tiktoken.Encoding -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_of_tiktokens_encoding_is_there_with_its_arguments(name):
    ours, theirs = getattr(bpetok.Tokenizer, name, None), getattr(tiktoken.Encoding, name, None)
    assert ours is not None
    if not callable(theirs):
        return  # a property, or set by the constructor
    arguments = [(p.name, p.kind, p.default) for p in inspect.signature(theirs).parameters.values()]
    given_by_ours = [(p.name, p.kind, p.default) for p in inspect.signature(ours).parameters.values()]
    assert [(a, b) for a, b, _ in given_by_ours] == [(a, b) for a, b, _ in arguments]
    for (_, _, mine), (argument, _, default) in zip(given_by_ours, arguments, strict=True):
        assert mine == default, argument


def test_the_facts_about_a_vocabulary_are_those_of_tiktoken(small, small_tiktoken):
    for name in [
        "n_vocab",
        "max_token_value",
        "eot_token",
        "special_tokens_set",
        "name",
        "_special_tokens",
        "_mergeable_ranks",
    ]:
        assert getattr(small, name) == getattr(small_tiktoken, name), name
    assert small.token_byte_values() == small_tiktoken.token_byte_values()
    assert small._pat_str == small_tiktoken._pat_str
    for token in (0, 255, 499, small.eot_token, small.max_token_value):
        assert small.is_special_token(token) == small_tiktoken.is_special_token(token)


@given(text=ANY_TEXT)
def test_encode_gives_the_ids_of_tiktoken_even_for_lone_surrogates(small, small_tiktoken, text):
    assert small.encode_ordinary(text) == small_tiktoken.encode_ordinary(text)
    assert small.encode(text, allowed_special="all") == small_tiktoken.encode(text, allowed_special="all")
    assert small.encode(text, disallowed_special=()) == small_tiktoken.encode(text, disallowed_special=())


@given(texts=st.lists(TEXTS, max_size=5))
def test_batches_give_the_ids_of_tiktoken(small, small_tiktoken, texts):
    assert small.encode_ordinary_batch(texts) == small_tiktoken.encode_ordinary_batch(texts)
    ids = small.encode_batch(texts, allowed_special="all")
    assert ids == small_tiktoken.encode_batch(texts, allowed_special="all")
    assert small.decode_batch(ids) == small_tiktoken.decode_batch(ids) == texts
    assert small.decode_bytes_batch(ids) == small_tiktoken.decode_bytes_batch(ids)


@given(ids=st.lists(st.integers(0, 501), max_size=30))
def test_decode_gives_the_text_of_tiktoken_for_any_ids(small, small_tiktoken, ids):
    assert small.decode(ids) == small_tiktoken.decode(ids)
    assert small.decode(ids, "ignore") == small_tiktoken.decode(ids, "ignore")
    assert small.decode_bytes(ids) == small_tiktoken.decode_bytes(ids)
    assert small.decode_tokens_bytes(ids) == small_tiktoken.decode_tokens_bytes(ids)


@given(text=TEXTS)
def test_character_offsets_are_those_of_tiktoken(small, small_tiktoken, text):
    ids = small.encode(text, allowed_special="all")
    assert small.decode_with_offsets(ids) == small_tiktoken.decode_with_offsets(ids)


def test_character_offsets_say_where_each_token_begins(small):
    text = "lower 🙂 東京"
    ids = small.encode(text)
    _, offsets = small.decode_with_offsets(ids)
    assert offsets[0] == 0
    for token_id, offset in zip(ids, offsets, strict=True):
        token = small.decode_bytes([token_id])
        assert text[offset:].encode().find(token) in range(4)  # it may begin inside its first character


@given(piece=st.one_of(TEXTS, st.binary(min_size=1, max_size=20)).filter(len))
def test_a_single_piece_is_merged_without_being_cut(small, small_tiktoken, piece):
    assert small._encode_single_piece(piece) == small_tiktoken._encode_single_piece(piece)


SPECIAL_RULES = [
    ({}, None),
    ({"allowed_special": "all"}, "ids"),
    ({"allowed_special": {EOT}}, "ids"),
    ({"allowed_special": {"<|fim|>"}}, None),
    ({"allowed_special": {EOT}, "disallowed_special": ()}, "ids"),
    ({"disallowed_special": ()}, "text"),
    ({"disallowed_special": {"<|fim|>"}}, "text"),
    ({"disallowed_special": {EOT}}, None),
    ({"disallowed_special": [EOT]}, None),
    ({"allowed_special": {"<|unknown|>"}, "disallowed_special": ()}, "text"),
    ({"allowed_special": "all", "disallowed_special": {EOT}}, None),
    ({"disallowed_special": {"low"}}, None),
]


@pytest.mark.parametrize(("arguments", "becomes"), SPECIAL_RULES)
@pytest.mark.parametrize("method", ["encode", "encode_batch", "encode_to_numpy"])
def test_special_tokens_are_refused_or_become_ids_or_are_text(either, method, arguments, becomes):
    text = f"low{EOT}er"

    def call():
        if method == "encode_batch":
            return either.encode_batch(["fine", text], **arguments)[1]
        return list(getattr(either, method)(text, **arguments))

    if becomes is None:
        with pytest.raises(ValueError, match=r"disallowed special token|was not allowed"):
            call()
    else:
        expected = either.encode_ordinary(text)
        if becomes == "ids":
            expected = [*either.encode_ordinary("low"), either.eot_token, *either.encode_ordinary("er")]
        assert call() == expected


def test_the_refusal_names_the_special_token_and_both_ways_out(small):
    with pytest.raises(
        bpetok.SpecialTokenError, match=r"holds the special token '<\|fim\|>', which was not allowed"
    ) as caught:
        small.encode("a<|fim|>")
    assert "allowed_special={'<|fim|>'}" in caught.value.hint
    assert "disallowed_special=()" in caught.value.hint


def test_a_refusal_in_a_batch_names_the_text(small):
    texts = ["lower", "the", "a<|fim|>", "<|fim|>"]
    with pytest.raises(bpetok.SpecialTokenError, match=r"text 2 of the batch holds the special token '<\|fim\|>'"):
        small.encode_batch(texts)
    with pytest.raises(bpetok.SpecialTokenError, match="text 3 of the batch"):
        small.encode_batch([*texts[:2], "", texts[3]], num_threads=2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda tok: tok.decode(None), "'NoneType' object is not iterable"),
        (lambda tok: tok.encode_batch(None), "'NoneType' object is not iterable"),
        (lambda tok: tok.decode_single_token_bytes(None), "cannot be interpreted as an integer"),
        (lambda tok: tok.encode_spans(["ab"]), "a span must be a text and True or False, got 'ab'"),
        (lambda tok: tok.truncate("lower", None), "cannot be interpreted as an integer"),
        (lambda tok: bpetok.Tokenizer("gpt2"), r"vocab must be a Vocab, got 'gpt2'; get_encoding\(name\)"),
    ],
)
def test_arguments_of_the_wrong_type_are_named_in_a_sentence(small, call, match):
    with pytest.raises(TypeError, match=match):
        call(small)


def test_special_tokens_stand_at_any_place_and_side_by_side(either):
    eot = either.eot_token
    fim = either.encode_single_token("<|fim|>")
    assert either.encode(f"{EOT}{EOT}<|fim|>", allowed_special="all") == [eot, eot, fim]
    assert either.encode(f"a{EOT}", allowed_special="all") == [97, eot]
    assert either.encode("<|endoftext", allowed_special="all") == either.encode_ordinary("<|endoftext")


def test_text_before_a_special_token_is_cut_as_if_it_ended_there(either):
    ids = either.encode(f"a   {EOT}b", allowed_special="all")
    assert ids == [*either.encode_ordinary("a   "), either.eot_token, *either.encode_ordinary("b")]


@pytest.mark.parametrize("argument", ["allowed_special", "disallowed_special"])
@pytest.mark.parametrize("wrong", ["<|endoftext|>", {5}, 5])
def test_what_is_no_collection_of_names_is_refused_by_the_name_of_the_argument(small, argument, wrong):
    with pytest.raises(TypeError, match=f"{argument} must be 'all' or a collection of str, got"):
        small.encode("a", **{argument: wrong})


def test_the_longest_special_token_wins():
    tok = bpetok.train("ab", 256, special_tokens=["<a>", "<a><b>", "a>"])
    assert tok.encode("<a><b><a>", allowed_special="all") == [257, 256]


def test_single_tokens_are_found_by_text_or_bytes(either):
    assert either.encode_single_token("a") == either.encode_single_token(b"a") == 97
    assert either.encode_single_token(b"\xff") == 255
    assert either.encode_single_token(EOT) == either.encode_single_token(EOT.encode()) == either.eot_token
    assert either.decode_single_token_bytes(either.eot_token) == EOT.encode()


@pytest.mark.parametrize("missing", ["no such token", "", b"\xff\xfe"])
def test_a_text_that_is_no_token_is_a_key_error(either, missing):
    with pytest.raises(KeyError, match=r"no such token|''|xff|is no token"):
        either.encode_single_token(missing)


@pytest.mark.parametrize("method", ["decode", "decode_bytes", "decode_tokens_bytes", "decode_with_offsets"])
def test_ids_that_no_token_has_are_refused_with_tiktokens_exceptions(either, method):
    with pytest.raises(KeyError, match="9999"):
        getattr(either, method)([97, 9999])
    for bad in (-1, 2**32, 2**80):
        with pytest.raises(
            OverflowError, match=r"can't convert negative|out of range|too large|too big|must be in 0 to 4294967295"
        ):
            getattr(either, method)([97, bad])


def test_a_single_id_that_no_token_has_is_refused_with_tiktokens_exceptions(either):
    with pytest.raises(KeyError, match="9999"):
        either.decode_single_token_bytes(9999)
    with pytest.raises(OverflowError, match=r"out of range|must be in 0"):
        either.decode_single_token_bytes(-1)


def test_our_refusals_of_ids_are_our_own_classes(small):
    with pytest.raises(bpetok.UnknownIdError, match="no token has the id 9999"):
        small.decode([9999])
    with pytest.raises(bpetok.IdRangeError, match="an id must be in 0 to 4294967295, got -1"):
        small.decode([-1])
    with pytest.raises(bpetok.UnknownTokenError, match="'xyzzy' is no token of small"):
        small.encode_single_token("xyzzy")


@pytest.mark.parametrize("method", ["encode", "encode_ordinary", "encode_to_numpy", "encode_single_token"])
@pytest.mark.parametrize("wrong", [None, 5, ["a"]])
def test_what_is_no_text_is_a_type_error(small, method, wrong):
    with pytest.raises(TypeError, match=r"bytes-like object is required|text must be str or bytes"):
        getattr(small, method)(wrong)


@pytest.mark.parametrize("wrong", [5, ["a"], [1.5], "abc", [None]])
def test_what_are_no_ids_is_a_type_error(small, wrong):
    with pytest.raises(TypeError, match=r"not iterable|interpreted as an integer"):
        small.decode(wrong)


def test_offsets_of_bytes_that_are_not_utf8_are_refused_as_in_tiktoken(either):
    with pytest.raises(UnicodeDecodeError, match="can't decode"):
        either.decode_with_offsets([255])


def test_a_vocabulary_without_end_of_text_has_no_eot_token():
    tok = bpetok.train("ab", 256)
    with pytest.raises(bpetok.UnknownTokenError, match="has no special token") as caught:
        _ = tok.eot_token
    assert "special_tokens=" in caught.value.hint


def test_the_array_of_ids_is_of_tiktokens_type(either):
    ids = either.encode_to_numpy(f"low{EOT}", allowed_special="all")
    assert (ids.dtype, ids.ndim) == (np.uint32, 1)


@pytest.mark.parametrize("arguments", [{}, {"allowed_special": "all"}, {"disallowed_special": ()}])
def test_an_empty_text_has_no_ids(either, arguments):
    assert either.encode("", **arguments) == []
    assert either.encode_batch(["", ""], **arguments) == [[], []]
    assert either.encode_to_numpy("", **arguments).tolist() == []
    assert either.decode([]) == ""


# ---- round trips ----------------------------------------------------------------------------------------------------


@given(data=ANY_BYTES)
def test_decode_bytes_is_the_inverse_of_encode_for_any_bytes(small, data):
    assert small.decode_bytes(small.encode_ordinary(data)) == data


@given(text=TEXTS)
def test_decode_is_the_inverse_of_encode(small, by_regex, text):
    for tok in (small, by_regex):
        assert tok.decode(tok.encode(text, allowed_special="all")) == text
        assert tok.decode(tok.encode(text, disallowed_special=())) == text


def test_every_short_byte_string_comes_back(small):
    for first in range(256):
        for second in range(256):
            data = bytes([first, second])
            assert small.decode_bytes(small._encoder.encode(data)) == data


def test_bytes_of_valid_text_have_the_ids_of_the_text(small, by_regex, small_text):
    for tok in (small, by_regex):
        assert tok.encode(small_text.encode()) == tok.encode(small_text)
        assert (
            tok.encode(memoryview(small_text.encode()))
            == tok.encode(bytearray(small_text.encode()))
            == tok.encode(small_text)
        )


# ---- every way to the ids gives the same ones -----------------------------------------------------------------------


@given(texts=st.lists(ANY_BYTES, max_size=6), threads=st.integers(1, 4))
def test_batch_array_and_count_agree_with_encode(small, by_regex, texts, threads):
    for tok in (small, by_regex):
        singles = [tok.encode_ordinary(text) for text in texts]
        assert tok.encode_ordinary_batch(texts, num_threads=threads) == singles
        assert tok.encode_batch(texts, num_threads=threads, disallowed_special=()) == singles
        ids, offsets = tok.encode_batch_to_numpy(texts, num_threads=threads)
        assert (ids.dtype, offsets.dtype, offsets.shape) == (np.uint32, np.int64, (len(texts) + 1,))
        assert [ids[start:end].tolist() for start, end in pairwise(offsets)] == singles
        assert [tok.encode_to_numpy(text, disallowed_special=()).tolist() for text in texts] == singles
        assert [tok.count(text) for text in texts] == list(map(len, singles))


def test_large_batches_are_shared_among_threads_without_a_difference(small, small_text):
    texts = [small_text[i : i + 997] for i in range(0, len(small_text), 97)]
    assert small.encode_ordinary_batch(texts, num_threads=7) == [small.encode_ordinary(text) for text in texts]


@given(data=ANY_BYTES, cuts=st.lists(st.integers(0, 80)))
def test_a_stream_cut_anywhere_has_the_ids_of_the_whole(small, by_regex, data, cuts):
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    chunks = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    for tok in (small, by_regex):
        ids = np.concatenate(list(tok.encode_stream(chunks)))
        assert ids.tolist() == tok.encode_ordinary(data)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 4096])
def test_a_stream_of_equal_chunks_has_the_ids_of_the_whole(small, small_text, size):
    data = small_text[:8000].encode()
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    assert np.concatenate(list(small.encode_stream(chunks))).tolist() == small.encode_ordinary(data)


def test_a_stream_gives_ids_before_it_ends(small):
    def chunks():
        for _ in range(3):
            yield "low " * 100
        raise RuntimeError("nobody should have come this far")

    assert len(next(small.encode_stream(chunks()))) > 90


def test_an_empty_stream_has_no_ids(small, by_regex):
    for tok in (small, by_regex):
        assert np.concatenate([np.zeros(0, np.uint32), *tok.encode_stream([])]).tolist() == []


@given(ids=st.lists(st.integers(0, 501), max_size=20))
def test_decoded_streams_together_are_the_whole_text(small, ids):
    assert "".join(small.decode_stream(iter(ids))) == small.decode(ids)


def test_a_decoded_stream_never_holds_half_a_character(small):
    ids = list("é東🙂".encode())  # ids of single bytes
    assert list(small.decode_stream(ids)) == ["é", "東", "🙂"]
    assert list(small.decode_stream(ids[:3])) == ["é", "\ufffd"]
    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        list(small.decode_stream(ids[:3], errors="strict"))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.int64, np.uint64])
def test_arrays_of_any_integers_are_decoded(small, dtype):
    ids = np.array(small.encode("lower"), dtype)
    assert small.decode(ids) == "lower"
    assert small.decode(ids[::-1][::-1]) == "lower"
    assert small.decode_with_offsets(ids)[0] == "lower"


class AsInteger:
    """Becomes the id 98, and does something else as well."""

    def __init__(self, also=lambda: None):
        self.also = also

    def __index__(self):
        self.also()
        return 98


def test_lists_of_whatever_can_be_an_integer_are_decoded(small):
    assert small.decode_bytes([97, AsInteger(), np.int64(99), 0, np.uint8(100), True]) == b"abc\x00d\x01"


def test_a_list_that_changes_while_it_is_read_is_read_as_it_is_then(small):
    ids = [97]
    ids += [AsInteger(also=lambda: ids.append(99)), 100]
    assert small.decode_bytes(ids) == b"abdc"
    ids = [97]
    ids += [AsInteger(also=ids.clear), *[100] * 1000]
    assert small.decode_bytes(ids) == b"ab"


@pytest.mark.parametrize("on", [True, False])
def test_a_batch_of_lists_leaves_the_collector_of_cycles_as_it_was(small, small_text, on):
    was_on = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        small.encode_ordinary_batch([small_text] * 10)
        assert gc.isenabled() == on
    finally:
        (gc.enable if was_on else gc.disable)()


def test_the_ids_do_not_depend_on_what_other_threads_do(small, small_text):
    expected = small.encode_ordinary(small_text)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(small.encode_ordinary, [small_text] * 16))
        decoded = list(pool.map(small.decode, results))
    assert all(ids == expected for ids in results)
    assert set(decoded) == {small_text}


# ---- value semantics ------------------------------------------------------------------------------------------------


def test_a_pickled_tokenizer_is_equal_and_gives_the_same_ids(small, by_regex, small_text):
    for tok in (small, by_regex):
        again = pickle.loads(pickle.dumps(tok))
        assert again == tok
        assert hash(again) == hash(tok)
        assert again.encode(small_text) == tok.encode(small_text)


def test_tokenizers_of_different_vocabularies_are_not_equal(small):
    other = bpetok.train("some other text", 300)
    assert small != other
    assert small != "small"


def test_equal_tokenizers_decode_alike():
    # Two special tokens of one id: the order in which they are named decides what it decodes to.
    ranks = {bytes([byte]): byte for byte in range(256)}
    first, second = (
        bpetok.Tokenizer(bpetok.Vocab(ranks, dict.fromkeys(names, 256))) for names in (["<x>", "<y>"], ["<y>", "<x>"])
    )
    assert first != second or first.decode([256]) == second.decode([256])


def test_the_representation_names_pattern_and_size(small):
    assert repr(small) == f"<Tokenizer {small.name!r}: 502 ids, {small.vocab.split}, {small.fingerprint[:12]}>"


def test_token_lengths_are_the_bytes_of_text_that_each_id_stands_for(small, small_text):
    lengths = small.token_byte_lengths()
    assert lengths.shape == (small.n_vocab,)
    assert lengths[small.eot_token] == 0
    assert lengths[97] == 1
    assert lengths[small.encode_to_numpy(small_text)].sum() == len(small_text.encode())


# ---- the core's own checks ------------------------------------------------------------------------------------------

BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ({b"a": 0}, r"every single byte must be a token, missing b'\\x00'"),
        (BYTES | {b"": 256}, "a token must not be empty, got id 256"),
    ],
)
def test_the_core_refuses_a_broken_table(tokens, match):
    with pytest.raises(bpetok.VocabError, match=match):
        bpetok._core.Encoder(tokens, "gpt4")


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ({b"a": 1 << 24}, "an id must be at most 16777214"),
        ({b"a": 1, b"b": 1}, "must belong to one token, got two for id 1"),
    ],
)
def test_the_core_refuses_a_broken_table_of_ids(tokens, match):
    with pytest.raises(bpetok.VocabError, match=match):
        bpetok._core.Decoder(tokens)


def test_the_core_encodes_pretokens_that_the_caller_has_cut():
    core = bpetok._core.Encoder(BYTES | {b"ab": 256, b"abc": 257}, "none")
    assert core.encode_pretokens(["ab", b"c", "", "abc", "é"]).tolist() == [256, 99, 257, 0xC3, 0xA9]
