import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bpetok.errors import CorruptionError, DataError
from lm.alphabet import BYTES, NEWLINE, Alphabet
from lm.errors import ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
ODD = "e\u0301 \0\x7f\x85\u2028\ufeff\ufffd\U0010ffff🙂\r\n"


@given(text=TEXTS, newline_first=st.booleans())
@example(text=ODD, newline_first=True)
@example(text=ODD, newline_first=False)
def test_characters_come_back_and_so_do_bytes(text: str, newline_first: bool) -> None:
    alphabet = Alphabet.of_text(text, newline_first=newline_first)
    ids = alphabet.encode_ordinary(text)
    assert len(ids) == len(text) and set(ids) <= set(range(alphabet.n_vocab))
    assert alphabet.decode(ids) == "".join(alphabet.decode_stream(iter(ids))) == text
    assert BYTES.encode_ordinary(text) == list(text.encode())
    assert BYTES.decode(list(text.encode())) == text


@given(text=TEXTS)
@example(text=ODD)
def test_ids_are_in_the_order_of_the_code_points(text: str) -> None:
    alphabet = Alphabet.of_text(text)
    assert list(alphabet.characters or "") == sorted(set(text))
    assert alphabet.encode_ordinary(text) == [sorted(set(text)).index(character) for character in text]


@pytest.mark.parametrize("text", ["ab\n", "ab", "a\tb\n", "\n"])
def test_the_newline_is_id_0_where_it_shall_be_whatever_sorts_before_it(text: str) -> None:
    alphabet = Alphabet.of_text(text, newline_first=True)
    assert alphabet.encode_ordinary(NEWLINE) == [0]
    assert sorted(alphabet.characters or "") == sorted({*text, NEWLINE})
    assert list(alphabet.characters or "")[1:] == sorted(set(text) - {NEWLINE})


def test_the_alphabet_of_the_lectures_is_the_end_and_a_to_z() -> None:
    alphabet = Alphabet.of_text("zyxwvutsrqponmlkjihgfedcba", newline_first=True)
    assert alphabet.characters == "\nabcdefghijklmnopqrstuvwxyz" and alphabet.n_vocab == 27


@given(text=TEXTS)
@example(text=ODD)
def test_the_bytes_of_an_id_are_those_of_its_character(text: str) -> None:
    alphabet = Alphabet.of_text(text)
    assert sum(alphabet.token_byte_lengths()[alphabet.encode_ordinary(text)]) == len(text.encode())
    assert BYTES.token_byte_lengths().tolist() == [1] * 256


@given(text=TEXTS)
@example(text="aé東🙂")
def test_a_stream_of_bytes_gives_each_character_when_it_is_whole(text: str) -> None:
    given_so_far = 0

    def ids() -> Iterator[int]:
        nonlocal given_so_far
        for byte in text.encode():
            given_so_far += 1
            yield byte

    read = ""
    for piece in BYTES.decode_stream(ids()):
        read += piece
        assert read.encode() == text.encode()[:given_so_far], "neither half a character nor a late one"
    assert read == text


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([], ""),
        ([0xC3], "�"),
        ([0xC3, 0x61], "�a"),
        ([0x61, 0xF0, 0x9F, 0x99], "a�"),
        ([0xFF, 0xC3, 0xA9], "�é"),
    ],
)
def test_bytes_that_are_no_text_become_the_replacement_character(ids: list[int], text: str) -> None:
    assert BYTES.decode(ids) == "".join(BYTES.decode_stream(ids)) == text == bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(("alphabet", "size"), [(Alphabet("ab"), 2), (BYTES, 256)], ids=["characters", "bytes"])
@pytest.mark.parametrize("id_", [-1, None])
def test_an_id_outside_the_alphabet_is_refused_behind_those_within(
    alphabet: Alphabet, size: int, id_: int | None
) -> None:
    wrong = size if id_ is None else id_
    message = rf"alphabet: id must be in \[0, {size}\), got {wrong}"
    with pytest.raises(DataError, match=message):
        alphabet.decode([1, wrong])
    stream = alphabet.decode_stream([1, wrong])
    assert next(stream) == alphabet.decode([1])
    with pytest.raises(DataError, match=message):
        next(stream)


def test_a_character_outside_the_alphabet_is_named_with_its_place() -> None:
    with pytest.raises(DataError, match=r"character 2 must be one of '\\nab', got 'É'\nhint: the alphabet is"):
        Alphabet("\nab").encode_ordinary("abÉ")
    with pytest.raises(DataError, match=r"character 0 must be one of 'ab', got '\\udcff'"):
        Alphabet("ab").encode_ordinary("\udcff")


def test_half_a_surrogate_pair_has_no_bytes_and_is_refused() -> None:
    # So does Python hand over what a user typed that is not UTF-8.
    with pytest.raises(DataError, match=r"alphabet: character 1 must be one that UTF-8 can write, got '\\udcff'"):
        BYTES.encode_ordinary("a\udcff")
    with pytest.raises(ConfigError, match=r"alphabet: characters must be without surrogates, got 'a\\ud800'"):
        Alphabet.of_text("\ud800a")


@pytest.mark.parametrize(
    ("characters", "message"),
    [("", r"characters must be one or more, got ''"), ("aba", r"characters must be each there once, got 'aba'")],
)
def test_no_characters_and_repeated_ones_are_refused(characters: str, message: str) -> None:
    with pytest.raises(ConfigError, match="alphabet: " + message):
        Alphabet(characters)


def test_a_text_without_characters_has_no_alphabet() -> None:
    with pytest.raises(DataError, match=r"alphabet: text must have a character or more, got none"):
        Alphabet.of_text("", newline_first=True)


@given(text=TEXTS)
@example(text=ODD)
def test_what_is_saved_is_loaded(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "alphabet.json"
    for alphabet in (Alphabet.of_text(text), BYTES):
        alphabet.save(path)
        again = Alphabet.load(path)
        assert again == alphabet and again.fingerprint == alphabet.fingerprint


def test_fingerprints_differ_where_ids_do() -> None:
    latin = bytes(range(256)).decode("latin1")
    alphabets = [BYTES, *map(Alphabet, ["ab", "ba", "abc", "a", latin])]
    assert len({alphabet.fingerprint for alphabet in alphabets}) == len(alphabets)
    assert all(len(alphabet.fingerprint) == 64 for alphabet in alphabets)


def test_the_fingerprint_of_an_alphabet_stays_what_it_is() -> None:
    # Checkpoints hold it: another figure here, and no run of before can be resumed or sampled.
    fingerprint = "a802132ca80592dab6837f730cf6b765083a28d2e1f7ee7926fb45519bd98f29"
    assert Alphabet("\nabcdefghijklmnopqrstuvwxyz").fingerprint == fingerprint


GOOD = {"format": "lm alphabet", "version": 1, "characters": "ab"}
DAMAGED = {
    "no JSON": b'{"format": "lm al',
    "no UTF-8": b"\xff",
    "empty": b"",
    "another kind": b"[1, 2]",
    "a string": b'"ab"',
    "null": b"null",
    "deep": b"[" * 100_000,
    "no characters": json.dumps({key: GOOD[key] for key in ("format", "version")}).encode(),
    "another format": json.dumps({**GOOD, "format": "bpetok"}).encode(),
    "another version": json.dumps({**GOOD, "version": 2}).encode(),
    "a number": json.dumps({**GOOD, "characters": 3}).encode(),
    "a list": json.dumps({**GOOD, "characters": ["a", "b"]}).encode(),
    "none": json.dumps({**GOOD, "characters": ""}).encode(),
    "twice": json.dumps({**GOOD, "characters": "aa"}).encode(),
    "surrogate": json.dumps({**GOOD, "characters": "a\ud800"}).encode(),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "alphabet.json"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(CorruptionError, match=r"alphabet.json: an alphabet must be as it was written, got "):
        Alphabet.load(path)


def test_an_alphabet_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Alphabet.load(tmp_path / "none.json")
