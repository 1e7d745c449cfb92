"""The slow twin, held against examples computed by hand, tiktoken and the core."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import _core, reference
from bpetok.reference import BasicTokenizer, GPT4Tokenizer, RegexTokenizer, merge_pretoken

BYTES = {bytes([byte]): byte for byte in range(256)}
SPECIALS = {"<|endoftext|>": 300, "<|fim|>": 301}


@pytest.fixture
def wikipedia():
    """The example of the Wikipedia article on byte-pair encoding: aaabdaaabac becomes XdXac."""
    tokenizer = BasicTokenizer()
    tokenizer.train("aaabdaaabac", 256 + 3)
    return tokenizer


def test_the_wikipedia_example_comes_out_as_written_there(wikipedia):
    assert wikipedia.encode("aaabdaaabac") == [258, 100, 258, 97, 99]
    assert wikipedia.decode([258, 100, 258, 97, 99]) == "aaabdaaabac"
    assert wikipedia.merges == {(97, 97): 256, (97, 98): 257, (256, 257): 258}


def test_of_equal_counts_smallest_takes_the_smallest_ids_and_first_the_first_in_the_text():
    # (c, d), (d, a), (a, b) occur once each.
    for tie_break, pair in [("smallest", (97, 98)), ("first", (99, 100))]:
        tokenizer = BasicTokenizer()
        tokenizer.train("cdab", 257, tie_break=tie_break)
        assert list(tokenizer.merges) == [pair]


def test_of_equal_left_ids_the_smallest_right_id_wins():
    tokenizer = RegexTokenizer("gpt2")
    tokenizer.train("ac\nab", 257)
    assert list(tokenizer.merges) == [(97, 98)]


def test_training_stops_when_no_pair_is_left():
    tokenizer = BasicTokenizer()
    tokenizer.train("aaaa", 400)
    assert tokenizer.merges == {(97, 97): 256, (256, 256): 257}


def test_no_merge_crosses_a_border_of_the_pattern():
    tokenizer = RegexTokenizer("gpt2")
    tokenizer.train("a1a1a1a1", 300)
    assert tokenizer.merges == {}


def test_training_needs_room_for_the_bytes():
    with pytest.raises(bpetok.VocabError, match="vocab_size must be at least 256, one for each byte, got 255"):
        BasicTokenizer().train("a", 255)


def test_verbose_logs_every_merge(caplog):
    with caplog.at_level(logging.INFO, logger="bpetok.reference"):
        BasicTokenizer().train("aaab", 258, verbose=True)
    assert [record.getMessage() for record in caplog.records] == [
        "merge 256: (97, 97), which occurred 2 times",
        "merge 257: (97, 98), which occurred 1 times",
    ]


def test_render_shows_the_parts_the_token_and_its_id(wikipedia):
    assert wikipedia.render(257) == "[a][b] -> [ab] 257"
    assert wikipedia.render(97) == "[a] 97"
    assert wikipedia.render(10) == r"[\u000a] 10"
    assert wikipedia.render(255) == "[\ufffd] 255"


def test_decode_refuses_an_id_that_no_token_has(wikipedia):
    with pytest.raises(bpetok.UnknownIdError, match="no token has the id 259"):
        wikipedia.decode([97, 259])


def test_decode_replaces_bytes_that_are_not_utf8_and_decode_bytes_keeps_them():
    assert BasicTokenizer().decode([97, 255]) == "a\ufffd"
    assert BasicTokenizer().decode_bytes([97, 255]) == b"a\xff"


# ---- special tokens -------------------------------------------------------------------------------------------------


@pytest.fixture
def with_specials():
    tokenizer = RegexTokenizer("gpt4")
    tokenizer.train("low lower lowest", 258)
    tokenizer.register_special_tokens(SPECIALS)
    return tokenizer


def test_special_tokens_become_ids_only_where_they_are_allowed(with_specials):
    text = "low<|fim|>low<|endoftext|>"
    as_text = with_specials.encode_ordinary
    assert with_specials.encode(text, "all") == [257, 301, 257, 300]
    assert with_specials.encode(text, {"<|fim|>"}) == [257, 301, *as_text("low<|endoftext|>")]
    assert with_specials.encode(text, "none") == as_text(text)
    assert with_specials.decode([257, 301]) == "low<|fim|>"


def test_a_special_token_in_text_is_refused_unless_told(with_specials):
    with pytest.raises(bpetok.SpecialTokenError, match=r"holds the special token '<\|fim\|>', which was not allowed"):
        with_specials.encode("low<|fim|>")


def test_the_longest_special_token_wins():
    tokenizer = RegexTokenizer()
    tokenizer.register_special_tokens({"<a>": 300, "<a><b>": 301, "a>": 302})
    assert tokenizer.encode("<a><b><a>", "all") == [301, 300]


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("special", ["<|endoftext|>", "]]", "1", "é東🙂", "\\n", "%s{}"])
def test_save_and_load_give_the_same_tokenizer(tmp_path, special):
    tokenizer = RegexTokenizer(r"\w+|\s+")
    tokenizer.train("low lower lowest", 260)
    tokenizer.register_special_tokens({special: 260, special * 2: 261})
    tokenizer.save(tmp_path / "my")
    again = RegexTokenizer()
    again.load(tmp_path / "my.model")
    assert (again.pattern, again.merges, again.vocab) == (tokenizer.pattern, tokenizer.merges, tokenizer.vocab)
    assert again.special_tokens == tokenizer.special_tokens
    assert again.encode("low " + special, "all") == tokenizer.encode("low " + special, "all")


def test_the_vocab_file_has_a_line_for_every_token(tmp_path, wikipedia):
    wikipedia.save(tmp_path / "my")
    lines = (tmp_path / "my.vocab").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 259
    assert lines[-1] == "[aa][ab] -> [aaab] 258"


def test_a_basic_tokenizer_is_saved_without_a_pattern(tmp_path, wikipedia):
    wikipedia.save(tmp_path / "my")
    assert bpetok.load(tmp_path / "my.model").encode("aaabdaaabac") == [258, 100, 258, 97, 99]


def test_loading_a_model_that_merges_unknown_ids_is_refused(tmp_path):
    (tmp_path / "bad.model").write_text("minbpe v1\n\n0\n97 98\n999 97\n")
    with pytest.raises(bpetok.BpetokError, match="999"):
        BasicTokenizer().load(tmp_path / "bad.model")


# ---- equal to tiktoken, and to the core -----------------------------------------------------------------------------

GPT4_TEXT = "hello123!!!? (안녕하세요!) 😉 don't\n\n  x = {'a': 1}\t\r\n naïve 東京 <|endoftext|>"


def test_gpt4_tokenizer_gives_the_ids_of_tiktoken(encoding, tiktoken_encoding):
    theirs = tiktoken_encoding("cl100k_base")
    encoding("cl100k_base")
    ours = GPT4Tokenizer()
    assert ours.encode(GPT4_TEXT, "all") == theirs.encode(GPT4_TEXT, allowed_special="all")
    assert ours.encode_ordinary(GPT4_TEXT) == theirs.encode_ordinary(GPT4_TEXT)
    assert ours.decode(ours.encode(GPT4_TEXT, "all")) == GPT4_TEXT
    assert ours.special_tokens == theirs._special_tokens
    assert ours.ranks == theirs._mergeable_ranks
    assert ours.render(theirs.encode_single_token("ing")).startswith("[")


def test_gpt4_tokenizer_cannot_be_trained_saved_or_loaded(encoding, tmp_path):
    encoding("cl100k_base")
    tokenizer = GPT4Tokenizer()
    with pytest.raises(NotImplementedError, match="train a RegexTokenizer"):
        tokenizer.train("a", 300)
    with pytest.raises(NotImplementedError, match="cannot hold GPT-4's byte order"):
        tokenizer.save(tmp_path / "x")
    with pytest.raises(NotImplementedError, match="cannot be loaded"):
        tokenizer.load(tmp_path / "x")


@pytest.fixture(scope="module")
def odd_ranks():
    """Ranks that no training gives: longer tokens before shorter ones, tokens that no merge reaches."""
    tokens = [
        b"abc",
        b"bc",
        b"ab",
        b"abab",
        b"ba",
        b"aa",
        b"aaa",
        b"cab",
        b"aaaaa",
        b"bb",
        b"xyz",
        b"ca",
        b"bab",
        b"caab",
    ]
    return BYTES | {token: 256 + i for i, token in enumerate(tokens)}


@pytest.fixture(scope="module")
def odd_twins(odd_ranks):
    import tiktoken

    one_piece = tiktoken.Encoding("odd", pat_str=r"(?s:.+)", mergeable_ranks=odd_ranks, special_tokens={})
    return _core.Encoder(odd_ranks, "none"), one_piece


@given(text=st.text("abcx", max_size=40))
def test_ranks_that_do_not_rise_with_length_merge_as_in_tiktoken_and_in_the_core(odd_ranks, odd_twins, text):
    core, theirs = odd_twins
    ids = merge_pretoken(text.encode(), odd_ranks)
    assert ids == core.encode(text) == theirs.encode_ordinary(text)


@given(
    tokens=st.permutations([b"ab", b"ba", b"aa", b"aab", b"aba", b"baa", b"abab", b"bb", b"aaaa"]), text=st.text("ab")
)
def test_ranks_in_any_order_merge_as_in_the_core(tokens, text):
    ranks = BYTES | {token: 256 + i for i, token in enumerate(tokens)}
    assert merge_pretoken(text.encode(), ranks) == _core.Encoder(ranks, "none").encode(text)


@given(data=st.binary(max_size=40))
def test_ids_below_256_in_another_order_are_those_of_the_core(data):
    ranks = {bytes([byte]): 255 - byte for byte in range(256)} | {b"\x00\x01": 256, b"ab": 257}
    assert merge_pretoken(data, ranks) == (_core.Encoder(ranks, "none").encode(data))


def test_the_whole_text_is_utf8_with_lone_surrogates_replaced():
    assert reference.as_bytes("a\ud800b\ud83d\ude00") == "a\ufffdb😀".encode()
    assert reference.as_bytes("\ufeffa") == "\ufeffa".encode()
    assert reference.as_bytes(b"\xff") == b"\xff"


def test_a_text_without_pattern_is_one_pretoken_and_an_empty_text_none():
    assert reference.split(None, "a b") == [b"a b"]
    assert reference.split(None, "") == reference.split("gpt4", "") == []


def test_minbpes_small_functions_have_their_meaning():
    assert reference.count_pairs([1, 2, 1, 2], reference.count_pairs([1, 2])) == {(1, 2): 3, (2, 1): 1}
    assert reference.merge([1, 1, 1, 1, 1], (1, 1), 2) == [2, 2, 1]
    assert reference.merge([], (1, 1), 2) == []
