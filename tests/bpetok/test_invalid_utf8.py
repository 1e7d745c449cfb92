"""Bytes that are not UTF-8, and `str` that cannot be: the ids of the definition, wherever they stand."""

import random
from functools import lru_cache, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpetok
from bpetok import _core, reference
from bpetok.text import as_bytes

PATTERNS = {"gpt2": "gpt2", "gpt4": "cl100k_base", "gpt4o": "o200k_base"}

TEXTS = {
    "ASCII": "It's 2024, and we'll go 100% faster:\n\n  def f(x): return x/2  # ok!\r\n"
    "\tThe END? I'M sure you'D agree, O'Neil... Or WON'T THEY'VE done so?   No.",
    "Latin": "Ça va très bien, l'été à Zürich coûte 25 €; «naïve» ÉCOLE d'où\n\n"
    "straße's ʰAʰb Ĳsselmeer ǅungla č\u0301 ñandú, où qu'il fût ",
    "Cyrillic": "Привет, мир! Это ТЕСТ №5 — «ёжик»'s\n\n  Съешь ещё этих мягких 12345 булок\r\nда выпей чаю. ",
    "CJK": "東京の天気は晴れ、気温は23度です。\u3000今日は「良い日」だ！\n\n"
    "한국어와 中文混排 GPT-4o's ｶﾀｶﾅ 𠀀𠀁🙂ーー々 ",
}
OFFSETS = range(141)
INVALID = {
    "a byte of the middle alone": b"\x80",
    "the last byte of the middle alone": b"\xbf",
    "two of the middle": b"\x80\xbf",
    "overlong NUL": b"\xc0\x80",
    "overlong slash of two": b"\xc0\xaf",
    "overlong of two, the last": b"\xc1\xbf",
    "overlong of three": b"\xe0\x80\xaf",
    "overlong of three, the last": b"\xe0\x9f\xbf",
    "overlong of four": b"\xf0\x80\x80\xaf",
    "overlong of four, the last": b"\xf0\x8f\xbf\xbf",
    "the first surrogate": b"\xed\xa0\x80",
    "the last surrogate": b"\xed\xbf\xbf",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb9\x82",
    "half of a surrogate": b"\xed\xa0",
    "just above the last code point": b"\xf4\x90\x80\x80",
    "far above the last code point": b"\xf7\xbf\xbf\xbf",
    "a lead of five": b"\xf8\x88\x80\x80\x80",
    "a lead of six": b"\xfc\x84\x80\x80\x80\x80",
    "fe and ff": b"\xfe\xff",
    "one of two": b"\xc3",
    "one of three": b"\xe4",
    "two of three": b"\xe4\xb8",
    "one of four": b"\xf0",
    "two of four": b"\xf0\x9f",
    "three of four": b"\xf0\x9f\x99",
    "three of four, then ASCII": b"\xf0\x9f\x99(",
    "a lead, then a lead": b"\xe4\xe4\xb8\xad",
    "a long run": b"\xff\x80" * 40,
}


class Definition:
    """The slow twin of a vocabulary; it remembers what it has cut and merged."""

    def __init__(self, vocab):
        self.pattern = vocab.split.name
        self.split = lru_cache(maxsize=None)(partial(reference.split, self.pattern))
        self.merge = lru_cache(maxsize=None)(partial(reference.merge_pretoken, ranks=dict(vocab.ranks)))

    def ids(self, data):
        return [token_id for pretoken in self.split(data) for token_id in self.merge(pretoken)]


@pytest.fixture(scope="module")
def tokenizers(small_text, encoding):
    """By pattern: one that the test trains, also on broken characters, and the published one, with the definition."""
    broken = b"".join(text.encode()[i : i + 40] for text in TEXTS.values() for i in range(0, 120, 7))
    text = small_text.encode() + (broken + b"".join(INVALID.values())) * 3
    trained = {pattern: bpetok.train(text, 700, pattern=pattern) for pattern in PATTERNS}
    published = {pattern: encoding(name) for pattern, name in PATTERNS.items()}
    return {
        pattern: [(tok, Definition(tok.vocab)) for tok in (trained[pattern], published[pattern])]
        for pattern in PATTERNS
    }


def assert_defined(pattern, tokenizers, cases):
    (_, definition), _ = tokenizers[pattern]
    for data in cases:
        ends = _core.pretoken_ends(pattern, data).tolist()
        pretokens = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        assert pretokens == definition.split(data), data
    for tok, twin in tokenizers[pattern]:
        twin.split = definition.split
        for data, ids in zip(cases, tok.encode_ordinary_batch(cases), strict=True):
            assert ids == twin.ids(data), data
            assert tok.decode_bytes(ids) == data


# ---- every kind at every place -------------------------------------------------------------------------------------


def with_invalid_bytes(step):
    """Each text with bad bytes at each offset in bytes, which may be the middle of a character.

    With a step of 4, each kind stands at each offset in one of the four texts; with 1 in all.
    """
    for number, text in enumerate(TEXTS.values()):
        data = text.encode()
        assert len(data) > OFFSETS[-1]
        for offset in OFFSETS:
            for bad in list(INVALID.values())[(offset + number) % step :: step]:
                yield data[:offset] + bad + data[offset:]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_invalid_bytes_at_every_offset_have_the_ids_of_the_definition(tier, tokenizers, pattern):
    assert_defined(pattern, tokenizers, list(with_invalid_bytes(step=4)))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_kind_of_invalid_bytes_at_every_offset_of_every_text_has_the_ids_of_the_definition(
    tier, tokenizers, pattern
):
    assert_defined(pattern, tokenizers, list(with_invalid_bytes(step=1)))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_cut_at_every_byte_has_the_ids_of_the_definition(tier, tokenizers, pattern):
    datas = [text.encode() for text in TEXTS.values()]
    cases = [data[:end] for data in datas for end in range(len(data))]
    cases += [data[begin:] for data in datas for begin in range(0, len(data), 2)]
    cases += [data[:i] + data[i + 1 :] for data in datas for i in range(1, len(data), 3)]
    assert_defined(pattern, tokenizers, cases)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_runs_of_invalid_bytes_of_every_length_have_the_ids_of_the_definition(tier, tokenizers, pattern):
    cases = []
    for length in range(1, 140):
        for bad in (b"\xff", b"\x80", b"\xf0\x9f\x99", b"\xe4"):
            run = (bad * length)[:length]
            cases += [run, b"x " + run + b" y", "é中".encode() + run + b"'s\n" + run]
    assert_defined(pattern, tokenizers, cases)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_bytes_and_characters_have_the_ids_of_the_definition(tier, tokenizers, pattern):
    draw = random.Random("bytes")
    pieces = [*(text[i : i + 3].encode() for text in TEXTS.values() for i in range(0, 90, 3)), *INVALID.values()]
    pieces += [bytes([byte]) for byte in range(128, 256)]
    cases = [draw.randbytes(draw.randint(1, 200)) for _ in range(300)]
    cases += [b"".join(draw.choices(pieces, k=draw.randint(1, 60))) for _ in range(1000)]
    assert_defined(pattern, tokenizers, cases)


@pytest.mark.parametrize("name", PATTERNS.values())
def test_valid_bytes_have_the_ids_of_the_text(tier, encoding, tiktoken_encoding, corpus, name):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    texts = [text[start:][:150] for text in corpus.values() for start in range(0, 1000, 37)]
    expected = [theirs.encode_ordinary(text) for text in texts]
    assert ours.encode_ordinary_batch(texts) == expected
    assert ours.encode_ordinary_batch([text.encode() for text in texts]) == expected
    for text, ids in list(zip(texts, expected, strict=True))[::9]:
        for data in (text.encode(), bytearray(text.encode()), memoryview(text.encode())):
            assert ours.encode(data, disallowed_special=()) == ids, text


# ---- str with surrogates -------------------------------------------------------------------------------------------

PLACES = range(71)
# By how many bytes Python gives to a character: strings of one, of two and of four.
STRINGS = {
    "ASCII": "Plain words of one byte each, in which nothing happens, isn't it so? 12345",
    "one byte": "Ça va très bien, l'été à Zürich coûte 25 £; ÉCOLE d'où, straße's ñandú ÿÿ þ",
    "two bytes": "Привет, мир! Это ТЕСТ №5 — «ёжик»'s 東京の天気は晴れ、気温は23度です。 ok's ʰAʰb ... и ещё",
    "four bytes": "🙂 wörds and 𠀀𠀁 and 𐐀𐐨's, Привет 東京の天気 12345 👩\u200d🚀 isn't it so? yes, it is so, I say!",
}
SURROGATES = ["\ud83d", "\ude42", "\ud83d\ude42", "\ude42\ud83d", "\ud83d\ud83d\ude42", "\udfff", "\ud800\ud800"]


def with_surrogates(text):
    assert len(text) > PLACES[-1]
    return [text[:place] + bad + text[place:] for place in PLACES for bad in SURROGATES]


@pytest.mark.parametrize("name", PATTERNS.values())
@pytest.mark.parametrize("kind", STRINGS)
def test_surrogates_at_every_place_count_as_in_tiktoken(tier, encoding, tiktoken_encoding, kind, name):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    texts = with_surrogates(STRINGS[kind])
    for text, ids in zip(texts, ours.encode_ordinary_batch(texts), strict=True):
        assert ids == theirs.encode_ordinary(text), ascii(text)
        assert ids == ours.encode_ordinary(as_bytes(text)), ascii(text)
        assert ids == ours.encode(text) == ours.encode_to_numpy(text).tolist(), ascii(text)
        assert len(ids) == ours.count(text), ascii(text)


@pytest.mark.parametrize("name", PATTERNS.values())
@pytest.mark.parametrize("kind", STRINGS)
def test_strings_of_every_width_have_tiktokens_ids_at_every_place(tier, encoding, tiktoken_encoding, kind, name):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    # The widest character of a text decides how Python keeps all of it.
    wide = ["é", "\x80", "ÿ", "Ж", "\uffff", "𐀀", "\U0010ffff"]
    text = STRINGS[kind]
    texts = [text[:place] + char + text[place:] for place in PLACES for char in wide]
    texts += [text[place:] for place in PLACES] + [text[:place] for place in PLACES]
    assert ours.encode_ordinary_batch(texts) == [theirs.encode_ordinary(one) for one in texts]


# ---- tiktoken's own rule for bytes ---------------------------------------------------------------------------------


def assert_encodes_bytes_alike(ours, theirs, data):
    assert ours._encode_bytes(data) == theirs._encode_bytes(data), data


@pytest.mark.parametrize("name", PATTERNS.values())
def test_encode_bytes_follows_tiktokens_rule(encoding, tiktoken_encoding, name):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    for text in TEXTS.values():
        data = text.encode()
        for i in range(len(data)):
            assert_encodes_bytes_alike(ours, theirs, data[:i])
            assert_encodes_bytes_alike(ours, theirs, data[i:])
            bad = (b"\xff", b"\xe4\xb8", b"\xf0\x9f\x99")[i % 3]
            assert_encodes_bytes_alike(ours, theirs, data[:i] + bad)
            assert_encodes_bytes_alike(ours, theirs, data[:i] + bad + data[i:])
    assert_encodes_bytes_alike(ours, theirs, b"")


@pytest.mark.parametrize("name", PATTERNS.values())
@given(
    parts=st.lists(st.one_of(st.text(max_size=8).map(str.encode), st.sampled_from(list(INVALID.values())), st.binary()))
)
@settings(max_examples=300)
def test_encode_bytes_follows_tiktokens_rule_on_any_bytes(encoding, tiktoken_encoding, name, parts):
    assert_encodes_bytes_alike(encoding(name), tiktoken_encoding(name), b"".join(parts))
