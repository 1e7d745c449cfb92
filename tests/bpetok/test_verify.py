"""A tokenizer is held against the definition, and against another tokenizer."""

import dataclasses

import pytest

import bpetok
from bpetok import verify
from bpetok.formats import probe


def test_a_tokenizer_has_the_ids_of_the_definition(small: bpetok.Tokenizer) -> None:
    assert verify.against_definition(small, probe.TEXTS) is None


def test_the_definition_is_that_of_lists_of_merges_too(small: bpetok.Tokenizer, small_text: str) -> None:
    merges = small.vocab.recover_merges()
    for ignore in (False, True):
        vocab = dataclasses.replace(small.vocab, semantics="merges", merges=merges[::-1], ignore_merges=ignore)
        tok = bpetok.Tokenizer(vocab)
        assert verify.against_definition(tok, [*probe.TEXTS, *small_text.split()[:200]]) is None


def test_ids_that_are_not_those_of_the_definition_are_found(monkeypatch) -> None:
    tok = bpetok.train("low lower lowest", 259, pattern="gpt2")
    monkeypatch.setattr(type(tok), "encode_ordinary", lambda self, text: [108] * len(text))
    assert verify.against_definition(tok, ["", "l", "lax"]) == verify.Mismatch(2, 1, (108, 108), (97, 120))
    monkeypatch.setattr(type(tok), "encode_ordinary", lambda self, text: list(verify.defined_ids(self.vocab, text)))
    monkeypatch.setattr(type(tok), "decode_bytes", lambda self, ids: b"other")
    assert verify.against_definition(tok, ["l"]) == verify.Mismatch(0, 0, (108,), ())


def vocab(*tokens: bytes, first: int = 256, **more) -> bpetok.Tokenizer:
    ranks = {bytes([byte]): byte + first - 256 for byte in range(256)}
    return bpetok.Tokenizer(bpetok.Vocab(ranks | {token: first + i for i, token in enumerate(tokens)}, **more))


def test_the_first_difference_from_a_source_is_named() -> None:
    one, other = vocab(b"ab", b"cd"), vocab(b"ab", b"bc")
    assert verify.against(one, one, ["abcd"]) is None
    assert verify.against(one, other, ["xyz", "éab", "ab cd!"]) == verify.Mismatch(2, 3, (257, 33), (99, 100, 33))
    assert verify.against(one, vocab(b"cd", b"ab"), ["ab"]) == verify.Mismatch(0, 0, (256,), (257,))
    assert verify.against(vocab(), one, ["ab"]) == verify.Mismatch(0, 0, (97, 98), (256,))


def test_tokens_may_be_numbered_otherwise_where_that_is_told() -> None:
    source = vocab(b"ab", special_tokens={"<|x|>": 257})
    shifted = vocab(b"ab", first=257, special_tokens={"<|x|>": 0})
    assert verify.against(shifted, source, ["ab c"], renumbered=True) is None
    wrong = verify.against(shifted, source, ["ab c"])
    assert wrong == verify.Mismatch(None, 0, ("<|x|>=0",), ("<|x|>=257",))
    assert verify.against(vocab(b"bc", first=257), vocab(b"ab"), ["abc"], renumbered=True) is not None
    missing = verify.against(vocab(b"ab"), source, [], renumbered=True)
    assert missing == verify.Mismatch(None, 0, (), ("<|x|>=257",))


@pytest.mark.parametrize("text", ["e\u0301", "가"])
def test_normalized_text_is_defined_as_its_normal_form(text: str) -> None:
    tok = vocab("é".encode(), normalization="NFC")
    assert verify.against_definition(tok, [text]) is None
