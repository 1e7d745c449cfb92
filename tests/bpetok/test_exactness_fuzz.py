"""Structured random strings, and runs: the ids are tiktoken's, the pretokens those of its expression.

A block of the core's scanner has 64 bytes, so what is hard stands at the borders of the first two.
"""

import os
import random
import time
from functools import cache
from itertools import product

import pytest

import bpetok
from bpetok import _core, reference

PATTERNS = ["gpt2", "gpt4", "gpt4o"]
PUBLISHED = {"gpt2": "gpt2", "gpt4": "cl100k_base", "gpt4o": "o200k_base"}
STRINGS = 100_000
STEPS = (1, 4, 5)  # every one in the published vocabulary, some in those that show borders
SLOW_STRINGS = int(os.environ.get("BPETOK_FUZZ", 10_000_000))
SLOW_SECONDS = 540  # of each pattern; what was done until then is printed

# ---- the grammar -------------------------------------------------------------------------------------------------

LETTERS = [*"aelrvdmstABELRVDMST", *"éßяſıÉЯİ", *"ǅᾈʰˀ々ー", *"中文กا한あª𠀀𐐀𐐨ꬰ", *"ḀḁႠაᲐＡａ"]
MARKS = ["\u0301", "\u093e", "\u20dd", "\ufe0f", "\U000e0100", "e\u0301", "क्ष"]
NUMBERS = [*"07²½Ⅷ٣४𝟗〇", "12", "345", "6789", "1²٣", "3.14", "1,000,000", "2024-01-01"]
SPACES = [*" \t\x0b\x0c\u0085\u00a0\u1680\u2000\u2028\u2029\u202f\u205f\u3000", "  ", "    ", "\t\t", "\u3000\u3000"]
LINES = ["\n", "\r", "\r\n", "\n\n", "\r\n\r\n", " \n", "\n ", " \r\n ", "  \n\n  ", "\n\r", "\u2028\n", "\x0b\n"]
SYMBOLS = [*"!/_-.,'\"(){}<>=~\x00\x1c\x1d\x1e\x1f\x7f", *"…€🙂\u200b\u200d\ufeff\u180e\ue000\u0378\U0010ffff"]
SYMBOLS += ["...", "?!", "''", "->", "</", "/*", "🇩🇪", "👩\u200d🚀", "’s", "\u00ad"]
SLASHES = ["/\n", "\n/", "//", "/\r\n/", "!\n/", "?!\n\n", "://", "/ /", "/\u3000/"]
WORDS = ["the", " the", "Hello", " World", "don't", "O'Neil", "rock'n'roll", " Müller", "привет", "ПРИВЕТ", "naïve"]
WORDS += [
    "東京タワー",
    "한국어",
    "ไทย",
    "हिन्दी",
    "العربية",
    "x²",
    "1st",
    "H2O",
    "東京の2024年",
    "GPT-4o",
    "ß'S",
    "中's",
]
CAMEL = ["camelCase", "HTTPServer", "XMLHttpRequest2", "iPhone", "McDonald's", "ABCdef", "aB", "ÄÖÜäö", "_get__X"]
CAMEL += ["AʰB", "ʰAb", "ABʰʰCD", "\u0301AB", "aBʰ", "ʰA'll"]
HAN = random.Random("Han").choices([chr(code_point) for code_point in range(0x4E00, 0x9FA6)], k=200)
HAN_RUNS = ["".join(HAN[size : 2 * size]) for size in (2, 5, 10, 19, 20, 21, 22, 40, 70)]
ENDINGS = ["s", "t", "m", "d", "ll", "ve", "re"]
CONTRACTIONS = [f"'{''.join(letters)}" for end in ENDINGS for letters in product(*((c, c.upper()) for c in end))]
CONTRACTIONS += ["'ſ", "'l", "'v", "'r", "'l l", "''s", "'sx", "x's", "X'S", " 'll", "'\u0301s", "'ſt", "'rE's"]
UNITS = LETTERS * 2 + MARKS + NUMBERS + SPACES + LINES + SYMBOLS + SLASHES + WORDS + CAMEL + CONTRACTIONS + HAN_RUNS

PLAIN = {
    "words": "some plain words in which nothing happens until the text gets to the place where it does matter to us, ",
    "dense": "Wörter_und(Zahlen[12])='straße's;x=y*2;" * 4,
    "wide": "東京の天気は晴れです。Привет мир ελληνικά" * 3,
    "blank": "\n" * 150,
}
OFFSETS = [*range(55, 71), *range(108, 136)]
PREFIXES = [text.encode()[:offset].decode(errors="ignore") for text in PLAIN.values() for offset in OFFSETS]


def strings(seed, number):
    """Texts of the grammar: 40 % stand at a block's border, 15 % hold a run, 10 % end in blanks.

    Half of them are made of a few units only, which so meet in every order.
    """
    draw = random.Random(seed)
    texts = []
    for _ in range(number):
        units = UNITS if draw.random() < 0.5 else draw.choices(UNITS, k=draw.randint(2, 5))
        parts = draw.choices(units, k=draw.randint(1, 12))
        shape = draw.random()
        if shape < 0.4:
            parts.insert(0, draw.choice(PREFIXES))
        if 0.35 < shape < 0.5:
            unit = "".join(draw.choices(units, k=draw.randint(1, 2)))
            parts[draw.randrange(len(parts))] = (unit * draw.randint(1, 80))[:200]
        if shape > 0.9:
            parts += draw.choices(SPACES + LINES, k=draw.randint(1, 4))
        texts.append("".join(parts))
    return texts


# ---- strings -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs_of_tokenizers(encoding, tiktoken_encoding, twins):
    """pattern -> the published vocabulary and those that show borders, each in bpetok and in tiktoken."""
    return {
        pattern: [
            (encoding(PUBLISHED[pattern]), tiktoken_encoding(PUBLISHED[pattern])),
            twins("pairs", pattern),
            twins("narrow pairs", pattern),
        ]
        for pattern in PATTERNS
    }


@pytest.fixture(scope="module")
def fuzz(ends_by_expression):
    """The texts, and by pattern where the pretokens of every fifth end."""
    texts = strings("normal", STRINGS)
    ends = {pattern: [ends_by_expression(pattern, text) for text in texts[::5]] for pattern in PATTERNS}
    return texts, ends


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_hundred_thousand_structured_strings_have_tiktokens_ids(
    tier, pairs_of_tokenizers, fuzz, expected_of, assert_ids, pattern
):
    texts, _ = fuzz
    for step, (ours, theirs) in zip(STEPS, pairs_of_tokenizers[pattern], strict=True):
        assert_ids(ours, texts[::step], expected_of(theirs, texts[::step]), theirs)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_structured_strings_are_cut_as_tiktokens_expression_cuts_them(tier, fuzz, pattern):
    texts, ends = fuzz
    wrong = [
        text
        for text, expected in zip(texts[::5], ends[pattern], strict=True)
        if _core.pretoken_ends(pattern, text).tolist() != expected
    ]
    assert not wrong, f"{len(wrong)} of {len(ends[pattern])}, the shortest {min(wrong, key=len)!a}"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_way_to_encode_gives_the_same_ids(tier, pairs_of_tokenizers, pattern):
    ours, _ = pairs_of_tokenizers[pattern][1]
    draw = random.Random(pattern)
    texts = strings("ways", 3000)
    assert ours.encode_batch(texts, disallowed_special=(), num_threads=2) == ours.encode_ordinary_batch(texts)
    for text, ids in zip(texts, ours.encode_ordinary_batch(texts, num_threads=1), strict=True):
        data = text.encode()
        assert ours.encode_ordinary(text) == ids, ascii(text)
        assert ours.encode(data, disallowed_special=()) == ids, ascii(text)
        assert ours.encode_to_numpy(text).tolist() == ids, ascii(text)
        assert ours.count(text) == len(ids), ascii(text)
        cut = draw.randint(0, len(data))
        streamed = [one for array in ours.encode_stream([data[:cut], data[cut:]]) for one in array.tolist()]
        assert streamed == ids, (ascii(text), cut)
        assert ours.decode_bytes(ids) == data, ascii(text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_strings_in_one_long_text_are_cut_as_in_tiktoken_wherever_a_block_begins(
    tier, twins, expected_of, assert_ids, pattern
):
    ours, theirs = twins("pairs", pattern)
    text = "".join(strings("one text", 4000))
    for extra in (0, 1, 31, 63):
        assert_ids(ours, ["x" * extra + text], expected_of(theirs, ["x" * extra + text]), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_ten_million_structured_strings_have_tiktokens_ids(
    pairs_of_tokenizers, expected_of, assert_ids, ends_by_expression, tiers_in_turn, capsys, pattern
):
    begin = time.monotonic()
    done = 0
    for tier in tiers_in_turn:
        if done >= SLOW_STRINGS or time.monotonic() - begin > SLOW_SECONDS:
            break
        texts = strings(f"slow {pattern} {done}", 10_000)
        for ours, theirs in pairs_of_tokenizers[pattern]:
            assert_ids(ours, texts, expected_of(theirs, texts), theirs)
        for text in texts[::10]:
            assert _core.pretoken_ends(pattern, text).tolist() == ends_by_expression(pattern, text), (tier, ascii(text))
        done += len(texts)
    with capsys.disabled():
        print(f"\n{pattern}: {done:,} strings in {time.monotonic() - begin:.0f} s")
    assert done >= min(SLOW_STRINGS, 100_000)


# ---- every combination of classes, across a block's border ---------------------------------------------------------

EACH_CLASS = ["a", "s", "l", "A", "ǅ", "ʰ", "中", "\u0301", "1", "²", " ", "\u3000", "\n", "\r"]
EACH_CLASS += ["'", "/", "!", "🙂", "\u0085"]


def across(number, repeat, offsets):
    """Each combination of classes behind plain text, of which it begins at one offset or another."""
    for i, chars in enumerate(product(EACH_CLASS, repeat=repeat)):
        for step in range(number):
            prefix = PLAIN["words"][: offsets[(i + step) % len(offsets)]]
            yield prefix + "".join(chars)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_three_classes_are_cut_as_in_tiktoken_across_the_border_of_a_block(
    tier, twins, expected_of, assert_ids, pattern
):
    ours, theirs = twins("pairs", pattern)
    texts = list(across(1, 3, range(57, 68)))
    texts += [f"{text}b" for text in texts[::3]] + [f"b{text[60:]}" for text in texts[1::3]]
    assert_ids(ours, texts, expected_of(theirs, texts), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_four_classes_are_cut_as_in_tiktoken_across_the_border_of_a_block(
    tier, twins, expected_of, assert_ids, pattern
):
    ours, theirs = twins("pairs", pattern)
    texts = list(across(len(range(53, 66)), 3, range(53, 66))) + list(across(3, 4, range(53, 66)))
    for start in range(0, len(texts), 20_000):
        batch = texts[start : start + 20_000]
        assert_ids(ours, batch, expected_of(theirs, batch), theirs)


BLANKS = [" ", "\t", "\n", "\r", "\u3000", "\u0085"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_five_blanks_are_cut_as_in_tiktoken(tier, twins, expected_of, assert_ids, pattern):
    ours, theirs = twins("pairs", pattern)
    runs = ["".join(chars) for length in range(1, 6) for chars in product(BLANKS, repeat=length)]
    texts = [form.format(run) for run in runs for form in ("{}", "a{}", "a{}b", "!{}'s")]
    assert_ids(ours, texts, expected_of(theirs, texts), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_eight_blanks_are_cut_as_in_tiktoken(tier, twins, expected_of, assert_ids, pattern):
    ours, theirs = twins("pairs", pattern)
    for first in product(BLANKS, repeat=3):
        texts = [f"a{''.join(first + rest)}{end}" for rest in product(BLANKS[:5], repeat=5) for end in ("", "b", "!")]
        assert_ids(ours, texts, expected_of(theirs, texts), theirs)


# ---- vocabularies of every kind --------------------------------------------------------------------------------------

ALPHABETS = ["abc", "ab 'sS", "中国人", "中丯丰丱", "あいう中a", "กขคง", "한국어", "क्षि", "éèя", "🙂🙃"]
ALPHABETS += ["a中é🙂 ", "aA中's\n"]


def any_vocabulary(draw, alphabet, pattern):
    """Random parts of random texts as tokens: halves of characters, and tokens that no merge makes."""
    tokens = {bytes([byte]) for byte in range(256)}
    longest = draw.choice([2, 4, 8, 12])
    for _ in range(draw.choice([3, 20, 150])):
        data = "".join(draw.choices(alphabet, k=8)).encode()
        start = draw.randrange(len(data) - 1)
        tokens.add(data[start : start + draw.randint(2, longest)])
    ids = draw.sample(range(3000), len(tokens))
    return bpetok.Vocab(dict(zip(sorted(tokens), ids, strict=True)), pattern=pattern)


@cache
def defined(alphabet):
    """Tokenizers, and for each some texts and what the definition makes of them."""
    draw = random.Random(alphabet)
    cases = []
    for _ in range(20):
        vocab = any_vocabulary(draw, alphabet, pattern=draw.choice([*PATTERNS, "none"]))
        slow = reference.RegexTokenizer(vocab.split.name)
        slow.ranks = dict(vocab.ranks)
        sizes = [*draw.choices(range(1, 13), k=40), 20, 63, 64, 65, 130]
        texts = ["".join(draw.choices(alphabet, k=size)) for size in sizes]
        cases.append((bpetok.Tokenizer(vocab), texts, [slow.encode_ordinary(text) for text in texts]))
    return cases


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_any_vocabulary_gives_the_ids_of_the_definition(tier, alphabet):
    for number, (ours, texts, expected) in enumerate(defined(alphabet)):
        for text, ids in zip(texts, expected, strict=True):
            assert ours.encode_ordinary(text) == ids, (number, text, ours)
        assert ours.encode_ordinary_batch(texts) == expected


# ---- runs --------------------------------------------------------------------------------------------------------


def runs(characters, lengths):
    """Every unit of so many characters, repeated, bare and between two words."""
    for unit in map("".join, product(EACH_CLASS, repeat=characters)):
        for length in lengths:
            run = unit * (length // characters)
            yield from (run, f"ab{run}Ab")


def assert_runs(pattern, texts, tokenizers, expected_of, assert_ids):
    for ours, theirs in tokenizers[pattern]:
        for start in range(0, len(texts), 1000):
            batch = texts[start : start + 1000]
            assert_ids(ours, batch, expected_of(theirs, batch), theirs)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_runs_of_one_or_two_characters_have_tiktokens_ids(tier, pairs_of_tokenizers, expected_of, assert_ids, pattern):
    texts = [*runs(1, (10, 62, 63, 64, 65, 66, 127, 128, 129, 130, 190)), *runs(2, (10, 63, 66, 130))]
    assert_runs(pattern, texts, pairs_of_tokenizers, expected_of, assert_ids)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_hundred_thousand_of_one_character_have_tiktokens_ids(pairs_of_tokenizers, expected_of, assert_ids, pattern):
    texts = [char * 100_000 for char in EACH_CLASS]
    ours, theirs = pairs_of_tokenizers[pattern][0]
    assert_ids(ours, texts, expected_of(theirs, texts), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("characters", "lengths"),
    [(1, (10_000, 1_000_000)), (2, (1000, 10_000, 100_000)), (3, (10, 100, 1000, 3000)), (4, (12, 68, 200))],
)
def test_runs_of_one_to_four_characters_have_tiktokens_ids(
    pairs_of_tokenizers, expected_of, assert_ids, pattern, characters, lengths
):
    texts = list(runs(characters, lengths))
    assert_runs(pattern, texts, pairs_of_tokenizers, expected_of, assert_ids)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_million_characters_of_every_two_classes_have_tiktokens_ids(
    pairs_of_tokenizers, expected_of, assert_ids, pattern
):
    ours, theirs = pairs_of_tokenizers[pattern][0]
    for text in runs(2, (1_000_000,)):
        assert_ids(ours, [text], expected_of(theirs, [text]))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_tokenizers_of_these_tests_cut_as_the_pattern_that_they_are_named_by(pairs_of_tokenizers, pattern):
    for ours, theirs in pairs_of_tokenizers[pattern]:
        assert isinstance(ours, bpetok.Tokenizer)
        assert ours.vocab.split.scanner == pattern
        assert theirs._pat_str == ours.vocab.pattern
