"""The probe tells tokenizers apart, and what is not proven leaves no file."""

import unicodedata

import pytest

import bpetok
from bpetok import Vocab, patterns, reference
from bpetok.formats import probe

BYTES = {bytes([byte]): byte for byte in range(256)}


def _swapped(vocab):
    by_id = {token_id: token for token, token_id in vocab.ranks.items()}
    return dict(vocab.ranks) | {by_id[690]: 691, by_id[691]: 690}


@pytest.fixture
def vocab():
    return bpetok.train("\n".join(probe.TEXTS), 700, pattern="gpt2", special_tokens=["<s>"]).vocab


def test_the_probe_tells_all_named_patterns_apart():
    cuts = {}
    for name in patterns.SPELLINGS:
        cut = str([reference.split(name, text) for text in probe.TEXTS])
        assert cuts.setdefault(cut, name) == name


def test_the_probe_holds_only_letters_that_every_table_knows():
    assert all(
        unicodedata.category(char) != "Cn" for text in probe.TEXTS for char in text if char not in "\uffff\U0010ffff"
    )


def test_a_proof_passes_where_the_ids_are_the_same(vocab):
    tok = bpetok.Tokenizer(vocab)
    probe.prove(vocab, tok.encode_ordinary, "here")
    probe.prove(vocab, lambda text: tok.encode(text, allowed_special="all"), "here", allowed_special="all")


@pytest.mark.parametrize(
    "other",
    [
        lambda vocab: Vocab(vocab.ranks, vocab.special_tokens, "gpt4"),
        lambda vocab: Vocab(BYTES, vocab.special_tokens, "gpt2"),
        lambda vocab: Vocab(_swapped(vocab), vocab.special_tokens, "gpt2"),
    ],
    ids=["another pattern", "no merges", "other merges"],
)
def test_a_proof_fails_where_one_id_differs(vocab, other):
    with pytest.raises(
        bpetok.FormatError, match=r"here: the ids of '.*' must be those of bpetok, \[.*\], got \["
    ) as error:
        probe.prove(vocab, bpetok.Tokenizer(other(vocab)).encode_ordinary, "here")
    assert "nothing was written" in error.value.hint


def test_a_proof_fails_where_the_other_one_makes_ids_of_special_tokens(vocab):
    tok = bpetok.Tokenizer(vocab)
    with pytest.raises(bpetok.FormatError, match="the ids of"):
        probe.prove(vocab, lambda text: tok.encode(text, allowed_special="all"), "here")


def test_what_is_proven_gets_its_name_and_what_is_not_leaves_nothing(tmp_path):
    with probe.proven(tmp_path / "a.json") as written:
        assert written.name == "a.json"
        written.write_text("first")
        assert not (tmp_path / "a.json").exists()
    with pytest.raises(RuntimeError), probe.proven(tmp_path / "a.json") as written:
        written.write_text("second")
        raise RuntimeError
    assert (tmp_path / "a.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_is_proven_keeps_what_else_is_in_it(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("kept")
    with probe.proven(tmp_path / "model") as written:
        written.mkdir()
        (written / "a").write_text("new")
    assert {path.name: path.read_text() for path in (tmp_path / "model").iterdir()} == {"weights": "kept", "a": "new"}
