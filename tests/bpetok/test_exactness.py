"""The ids are tiktoken's and the slow twin's: real text in every form, every alignment, any cache, any threads."""

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import numpy as np
import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import _core, reference

NAMES = ["gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony"]
DISTINCT = ["gpt2", "p50k_base", "cl100k_base", "o200k_base"]  # the others have the ranks of one of these
PATTERNS = {"gpt2": "gpt2", "gpt4": "cl100k_base", "gpt4o": "o200k_base"}
ALPHABET = "aAǅʰ中\u0301\u09031² \t\u00a0\n\r\u0085\u2028\u3000'sſtlrevdmLREVDM!/_🙂\ufeff\u200d"


def first_difference(ours, theirs):
    if len(ours) != len(theirs):
        return f"{len(ours)} ids against {len(theirs)}"
    return f"id number {np.flatnonzero(ours != theirs)[0]}"


def is_in_sample(number):
    """One file or document in nine; a prime would do as well, a power of two would not."""
    return number % 9 == 4


# ---- real text as whole files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_files(tiktoken_encoding):
    """`whole_files(name, texts)`: tiktoken's ids of each text; vocabularies with equal ranks are asked once."""
    asked = []

    def ids(name, texts):
        encoding = tiktoken_encoding(name)
        for other, other_texts, known in asked:
            same = other._pat_str == encoding._pat_str and other._mergeable_ranks == encoding._mergeable_ranks
            if same and other_texts is texts:
                return known
        known = [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts.values()]
        asked.append((encoding, texts, known))
        return known

    return ids


def compare_files(ours, texts, expected):
    compared = 0
    for (file, text), theirs in zip(texts.items(), expected, strict=True):
        ids = ours.encode_to_numpy(text, disallowed_special=())
        assert np.array_equal(ids, theirs), f"{file}: {first_difference(ids, theirs)}"
        assert ours.decode_bytes(ids) == text.encode(), file
        compared += len(text.encode())
    return compared


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_tiktokens_on_the_whole_corpus(encoding, whole_files, corpus, capsys, name):
    compared = compare_files(encoding(name), corpus, whole_files(name, corpus))
    assert compared > 20_000_000
    with capsys.disabled():
        print(f"\n{name}: {compared:,} bytes of {len(corpus)} files have tiktoken's ids and decode to themselves")


@pytest.fixture(scope="module")
def some_of_the_standard_library(standard_library):
    return {file: text for i, (file, text) in enumerate(standard_library.items()) if is_in_sample(i)}


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_tiktokens_on_some_of_the_standard_library(encoding, whole_files, some_of_the_standard_library, name):
    texts = some_of_the_standard_library
    assert compare_files(encoding(name), texts, whole_files(name, texts)) > 500_000


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ids_are_tiktokens_on_all_of_the_standard_library(encoding, whole_files, standard_library, capsys, name):
    compared = compare_files(encoding(name), standard_library, whole_files(name, standard_library))
    with capsys.disabled():
        print(f"\n{name}: {compared:,} bytes of {len(standard_library)} files have tiktoken's ids")
    assert compared > 5_000_000


# ---- real text as documents ----------------------------------------------------------------------------------------


def documents_of(texts, size=4096):
    """The texts in pieces of about `size` bytes; the characters that a cut would halve are left out."""
    pieces = []
    for text in texts.values():
        data = text.encode()
        pieces += [data[start : start + size].decode(errors="ignore") for start in range(0, len(data), size)]
    return pieces


def assert_documents(ours, theirs, documents, expected_of, assert_ids):
    """Twice: the second time whatever the encoder keeps is warm. Then backwards, on one thread."""
    expected = expected_of(theirs, documents)
    assert_ids(ours, documents, expected, theirs)
    assert_ids(ours, documents, expected, theirs)
    ids, offsets = ours.encode_batch_to_numpy(documents[::-1], num_threads=1)
    lengths = np.diff(expected.offsets)[::-1]
    assert np.array_equal(np.diff(offsets), lengths)
    parts = np.split(expected.ids, expected.offsets[1:-1])[::-1]
    assert np.array_equal(ids, np.concatenate(parts))


@pytest.mark.parametrize("name", DISTINCT)
def test_ids_of_short_documents_are_tiktokens_with_caches_cold_and_warm(
    encoding, tiktoken_encoding, corpus, some_of_the_standard_library, expected_of, assert_ids, name
):
    documents = [one for i, one in enumerate(documents_of(corpus)) if is_in_sample(i)]
    documents += documents_of(some_of_the_standard_library)[:200]
    assert_documents(encoding(name), tiktoken_encoding(name), documents, expected_of, assert_ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ids_of_all_documents_are_tiktokens_with_caches_cold_and_warm(
    encoding, tiktoken_encoding, corpus, standard_library, expected_of, assert_ids, name
):
    documents = documents_of(corpus) + documents_of(standard_library)
    assert_documents(encoding(name), tiktoken_encoding(name), documents, expected_of, assert_ids)


# ---- every alignment, every length ---------------------------------------------------------------------------------


def starts_of(texts, size):
    """From each text `size` characters from its middle on, of which the first is a letter."""
    return [text[regex.compile(r"\p{L}").search(text, len(text) // 2).start() :][:size] for text in texts.values()]


@pytest.fixture(scope="module")
def mixed_text(corpus, some_of_the_standard_library):
    files = {file: some_of_the_standard_library[file] for file in list(some_of_the_standard_library)[::10]}
    return "\n\n".join(starts_of(corpus | files, 1000))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_same_text_is_cut_the_same_at_every_alignment(
    tier, encoding, tiktoken_encoding, mixed_text, ends_by_expression, pattern
):
    ours, theirs = encoding(PATTERNS[pattern]), tiktoken_encoding(PATTERNS[pattern])
    ends = np.array(ends_by_expression(pattern, mixed_text))
    ids = theirs.encode_ordinary(mixed_text)
    assert len(ends) > 5_000  # a Python without its own tests has less to give
    for size in range(71):
        # A line end after letters is a pretoken of its own before a letter, with every pattern.
        prefix = "a" * (size - 1) + "\n" * (size > 0)
        borders = sorted({size - 1, size} - {-1, 0}) if size else []
        moved = _core.pretoken_ends(pattern, prefix + mixed_text)
        assert np.array_equal(moved, [*borders, *(ends + size)]), size
        assert ours.encode_ordinary(prefix + mixed_text) == theirs.encode_ordinary(prefix) + ids, size


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_that_ends_anywhere_is_cut_as_in_tiktoken(tier, twins, corpus, expected_of, assert_ids, pattern):
    ours, theirs = twins("pairs", pattern)
    texts = [start[:length] for start in starts_of(corpus, 200) for length in range(0, 200, 3)]
    texts += [f"{text} " for text in texts[::2]] + [f"{text}\r\n" for text in texts[1::2]]
    assert_ids(ours, texts, expected_of(theirs, texts), theirs)


# ---- long pretokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATTERNS.values())
def test_the_letters_of_every_file_as_one_pretoken_merge_as_in_tiktoken(encoding, tiktoken_encoding, corpus, name):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    for file, text in corpus.items():
        letters = "".join(regex.findall(r"\p{L}+", text[len(text) // 3 :][:20_000]))
        assert ours._encode_single_piece(letters) == theirs._encode_single_piece(letters), file
        assert ours.encode_ordinary(letters) == theirs.encode_ordinary(letters), file


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS.values())
def test_the_letters_of_whole_files_as_one_pretoken_merge_as_in_tiktoken(encoding, tiktoken_encoding, corpus, name):
    for file, text in corpus.items():
        letters = "".join(regex.findall(r"\p{L}+", text))
        assert encoding(name).encode_ordinary(letters) == tiktoken_encoding(name).encode_ordinary(letters), file


@pytest.mark.parametrize("name", PATTERNS.values())
def test_pretokens_of_every_length_in_scripts_without_spaces_merge_as_in_tiktoken(
    encoding, tiktoken_encoding, corpus, expected_of, assert_ids, name
):
    draw = random.Random(name)
    texts = []
    for file in ("zh.txt", "ja.txt", "th.txt", "ko.txt", "hi.txt", "en_prose.txt", "ru.txt"):
        letters = "".join(regex.findall(r"[\p{L}\p{M}]+", corpus[file][:200_000]))
        starts = (draw.randrange(len(letters) - 200) for _ in range(3))
        texts += [letters[start : start + length] for start in starts for length in range(1, 200)]
    assert_ids(encoding(name), texts, expected_of(tiktoken_encoding(name), texts), tiktoken_encoding(name))


@pytest.mark.parametrize("name", ["gpt4", "gpt2", "gpt4o"])
def test_long_pretokens_merge_as_in_the_slow_twin(small_text, name):
    tok = bpetok.train(small_text, 600, pattern=name)
    draw = random.Random(7)
    for length in (100, 126, 127, 128, 129, 130, 300):
        piece = "".join(draw.choices(["lo", "wer", "the", "qu", "in", "東京", "é"], k=length)).encode()[:length]
        assert tok._encode_single_piece(piece) == reference.merge_pretoken(piece, tok.vocab.ranks)


# ---- the slow twin, special tokens -----------------------------------------------------------------------------------


def compare_with_the_slow_twin(tok, corpus, size):
    slow = reference.RegexTokenizer(tok.vocab.split.name)
    slow.ranks = dict(tok.vocab.ranks)
    compared = 0
    for file, text in corpus.items():
        sample = text[len(text) // 3 :].encode()[: size // len(corpus)].decode(errors="ignore")
        assert tok.encode_ordinary(sample) == slow.encode_ordinary(sample), file
        compared += len(sample.encode())
    return compared


@pytest.mark.parametrize("name", PATTERNS.values())
def test_ids_are_the_slow_twins_on_a_sample_of_the_corpus(encoding, corpus, name):
    assert compare_with_the_slow_twin(encoding(name), corpus, 120_000) > 110_000


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ids_are_the_slow_twins_on_much_of_the_corpus(encoding, corpus, capsys, name):
    compared = compare_with_the_slow_twin(encoding(name), corpus, 3_000_000)
    with capsys.disabled():
        print(f"\n{name}: {compared:,} bytes of {len(corpus)} files have the ids of reference.py")
    assert compared > 2_000_000


@pytest.mark.parametrize("name", ["gpt2", "r50k_base", "cl100k_base", "o200k_base"])
@given(
    text=st.one_of(st.text(max_size=100), st.text(ALPHABET, max_size=60)), cuts=st.lists(st.integers(0, 60), max_size=3)
)
def test_ids_of_any_text_with_special_tokens_are_tiktokens(encoding, tiktoken_encoding, name, text, cuts):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    for cut, special in zip(cuts, sorted(ours.special_tokens_set) * 3, strict=False):
        text = text[:cut] + special + text[cut:]
    assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all")
    assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)


# ---- caches --------------------------------------------------------------------------------------------------------

# Pretokens that a cache could mistake for one another: by trailing NULs, by length, by a common beginning or end, by
# bytes that change places.
ALIKE = [f"{word}{chr(0) * n}" for word in ("", "a", "ab", "abcdefg", "abcdefgh", "a" * 15) for n in range(18)]
ALIKE += ["a" * n for n in range(1, 70)] + ["ab" * n for n in range(1, 40)] + ["b" + "a" * n for n in range(1, 70)]
ALIKE += [f"{'commonbeginning' * n}{end}" for n in range(1, 6) for end in "abcdefgh"]
ALIKE += [f"{end}{'commonending' * n}" for n in range(1, 6) for end in "abcdefgh"]
ALIKE += ["中" * n + end for n in range(1, 25) for end in ("", "国", "人")] + ["abcdefghij", "jihgfedcba", "bacdefghij"]


def distinct_words(number):
    """Words of 4 to 40 letters, no two alike."""
    draw = random.Random("words")
    return ["".join(draw.choices("etaoinshrdlu", k=draw.randint(4, 40))) + f"z{i}" for i in range(number)]


@pytest.mark.parametrize("name", PATTERNS.values())
def test_pretokens_that_look_alike_keep_their_own_ids(encoding, tiktoken_encoding, expected_of, assert_ids, name):
    draw = random.Random("alike")
    texts = ALIKE * 3
    draw.shuffle(texts)
    texts += [f" {one}" for one in ALIKE] + [" ".join(draw.sample(ALIKE, 20)) for _ in range(50)]
    for _ in range(2):
        assert_ids(encoding(name), texts, expected_of(tiktoken_encoding(name), texts), tiktoken_encoding(name))


def test_more_words_than_any_cache_holds_keep_their_ids(encoding, tiktoken_encoding):
    text = " ".join(distinct_words(100_000))
    ours, expected = encoding("cl100k_base"), tiktoken_encoding("cl100k_base").encode_ordinary(text)
    assert ours.encode_ordinary(text) == expected
    assert ours.encode_ordinary(text) == expected


def test_two_tokenizers_do_not_see_each_others_caches(encoding, small_text):
    texts = [small_text[start : start + 500] for start in range(0, 20_000, 500)]
    first = encoding("cl100k_base")
    expected = first.encode_ordinary_batch(texts)
    for size in range(300, 340, 4):  # each takes the memory that the one before it left
        short_lived = bpetok.train(small_text, size, pattern="gpt4")
        slow = reference.RegexTokenizer("gpt4")
        slow.ranks = dict(short_lived.vocab.ranks)
        some = texts[size % 7 :: 7]
        assert short_lived.encode_ordinary_batch(some) == [slow.encode_ordinary(one) for one in some]
        assert first.encode_ordinary_batch(texts) == expected
        del short_lived


@pytest.mark.parametrize("name", PATTERNS.values())
def test_no_cache_gives_the_ids_of_a_cache(tier, encoding, corpus, name):
    with_cache = encoding(name)
    without = bpetok.Tokenizer(with_cache.vocab, cache_mb=0)
    tiny = bpetok.Tokenizer(with_cache.vocab, cache_mb=1)
    texts = [*starts_of(corpus, 20_000), " ".join(distinct_words(5000)), *ALIKE]
    for _ in range(2):
        ids, offsets = with_cache.encode_batch_to_numpy(texts)
        for other in (without, tiny):
            others_ids, others_offsets = other.encode_batch_to_numpy(texts)
            assert np.array_equal(others_ids, ids)
            assert np.array_equal(others_offsets, offsets)


def test_clearing_the_cache_changes_no_ids(encoding, corpus):
    tok = encoding("o200k_base")
    texts = starts_of(corpus, 5000)
    expected = tok.encode_ordinary_batch(texts)
    for num_threads in (1, 3):
        tok.clear_cache()
        assert tok.encode_ordinary_batch(texts, num_threads=num_threads) == expected
    with ThreadPoolExecutor(3) as pool:  # while others encode
        found = [pool.submit(tok.encode_ordinary, text) for text in texts * 3]
        for _ in range(50):
            tok.clear_cache()
        assert [one.result() for one in found] == expected * 3


@pytest.mark.parametrize("name", PATTERNS.values())
def test_the_counts_of_a_batch_are_the_numbers_of_its_ids(tier, encoding, corpus, name):
    tok = encoding(name)
    texts = [*starts_of(corpus, 3000), "", " ", "a", b"\xff", "x" * 1000]
    expected = [len(tok.encode_ordinary(text)) for text in texts]
    for _ in range(2):
        assert list(tok.count_batch(texts)) == expected
    assert [tok.count(text) for text in texts] == expected
    assert list(tok.count_batch([])) == []


# ---- threads -------------------------------------------------------------------------------------------------------

BIG = 3_000_000


def first_bytes(texts, size=BIG):
    """About the first bytes of the texts one behind the other, again from the first where they are too short."""
    parts, left = [], size
    for text in cycle(texts):
        parts.append(text.encode()[:left])
        left -= len(parts[-1])
        if left == 0:
            return b"".join(parts).decode(errors="ignore").encode()


@pytest.fixture(scope="module")
def big_texts(corpus, standard_library):
    draw = random.Random("big")
    english = first_bytes([corpus["en_prose.txt"]])
    blanks = [" ", "    ", "\n", "\t", "\r\n", "\u3000"]
    return {
        "English": english,
        "code": first_bytes(standard_library.values()),
        "Chinese": first_bytes([corpus["zh.txt"], corpus["md_docs_zh.txt"]]),
        "one line without spaces": first_bytes("".join(corpus[file].split()) for file in ("wiki_mars.txt", "ja.txt")),
        "blanks and few words": first_bytes("".join(draw.choices(blanks, k=5000)) + "word" for _ in range(100)),
        "random bytes": draw.randbytes(BIG),
        "invalid now and then": b"".join(english[i : i + 997] + b"\xe4\xb8" for i in range(0, len(english), 997)),
        "one run of blanks": "".join(draw.choices(blanks, k=BIG // 2)).encode(),
        "one run of letters": first_bytes(["".join(distinct_words(10_000)).replace("z", "").translate(NO_DIGITS)]),
        "one run of Han": first_bytes(["".join(regex.findall(r"\p{Han}+", corpus["zh.txt"]))]),
    }


NO_DIGITS = dict.fromkeys(map(ord, "0123456789"))
KINDS = ["English", "code", "Chinese", "one line without spaces", "blanks and few words", "random bytes"]
KINDS += ["invalid now and then"]
RUNS = ["one run of blanks", "one run of letters", "one run of Han"]


def compare_numbers_of_threads(tok, theirs, expected_of, data):
    try:
        expected = expected_of(theirs, [data.decode()]).ids
    except UnicodeDecodeError:
        expected = tok.encode_to_numpy(data, disallowed_special=())
    for num_threads in (1, 2, 3, 8):
        ids, offsets = tok.encode_batch_to_numpy([data], num_threads=num_threads)
        assert offsets.tolist() == [0, len(ids)]
        assert np.array_equal(ids, expected), f"{num_threads} threads: {first_difference(ids, expected)}"
    ids, offsets = tok.encode_batch_to_numpy([b"a b", data, b"", data[:1000]], num_threads=3)
    assert np.array_equal(ids[offsets[1] : offsets[2]], expected)
    assert tok.decode_bytes(ids) == b"a b" + data + data[:1000]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_do_not_depend_on_the_number_of_threads(encoding, tiktoken_encoding, expected_of, big_texts, kind):
    ours, theirs = encoding("cl100k_base"), tiktoken_encoding("cl100k_base")
    compare_numbers_of_threads(ours, theirs, expected_of, big_texts[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS + RUNS)
@pytest.mark.parametrize("name", DISTINCT)
def test_ids_of_every_kind_of_text_do_not_depend_on_the_number_of_threads(
    encoding, tiktoken_encoding, expected_of, big_texts, name, kind
):
    compare_numbers_of_threads(encoding(name), tiktoken_encoding(name), expected_of, big_texts[kind])


def test_python_threads_that_share_a_tokenizer_get_the_same_ids(encoding, corpus):
    tok = bpetok.Tokenizer(encoding("cl100k_base").vocab)
    texts = [*starts_of(corpus, 3000), " ".join(distinct_words(2000))]
    expected = [encoding("cl100k_base").encode_ordinary(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tok.encode_ordinary, texts * 8)) == expected * 8


def test_tiktoken_here_is_the_version_whose_patterns_these_are():
    assert tuple(map(int, tiktoken.__version__.split(".")[:2])) >= (0, 14)
