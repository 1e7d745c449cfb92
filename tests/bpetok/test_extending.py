"""extend: training that goes on from a tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import reference
from bpetok.training import TIE_BREAKS

TEXTS = st.text("abc é1", min_size=1, max_size=100)


def tokens_of(tok):
    return sorted(tok.vocab.ranks, key=tok.vocab.ranks.__getitem__)


@pytest.mark.parametrize("tie_break", TIE_BREAKS)
@given(text=TEXTS, first=st.integers(256, 280), more=st.integers(0, 40))
def test_going_on_is_as_if_training_had_not_stopped(tie_break, text, first, more):
    rules = {"tie_break": tie_break}
    base = bpetok.train(text, first, pattern="gpt2", **rules)
    whole = bpetok.train(text, first + more, pattern="gpt2", **rules)
    grown = bpetok.extend(base, text, first + more, **rules)
    assert grown == whole
    assert list(grown.vocab.merges) == list(whole.vocab.merges)
    assert grown.vocab.provenance["tokens"] == whole.vocab.provenance["tokens"] == grown.count(text)


@given(text=TEXTS, other=TEXTS)
def test_ids_stay_and_new_ones_come_behind_all_others(text, other):
    base = bpetok.train(text, 264, pattern="gpt2", special_tokens=["<s>", "<e>"])
    grown = bpetok.extend(base, other, 270, special_tokens=["<u>"])
    assert [grown.vocab[i] for i in base.vocab] == [base.vocab[i] for i in base.vocab]
    new = sorted(set(grown.vocab) - set(base.vocab))
    assert new == list(range(len(base.vocab), len(grown.vocab)))
    assert grown.vocab.special_tokens == dict(base.vocab.special_tokens) | {"<u>": new[-1]}
    made = [tuple(grown.vocab[i] for i in pair) for pair in list(grown.vocab.merges)[len(base.vocab.merges) :]]
    assert made == slow_merges(base, other, len(new) - 1)


def slow_merges(base, text, merges):
    """Encodes by the base, then merges the most frequent pair of ids, counted anew for each step."""
    tokens = {i: base.vocab[i] for i in base.vocab.ranks.values()}
    words = [reference.merge_pretoken(piece, base.vocab.ranks) for piece in reference.split(base.vocab.pattern, text)]
    made = []
    for new_id in range(len(base.vocab), len(base.vocab) + merges):
        counts = reference.Counter()
        for ids in words:
            reference.count_pairs(ids, counts)
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        made.append((tokens[pair[0]], tokens[pair[1]]))
        tokens[new_id] = b"".join(made[-1])
        words = [reference.merge(ids, pair, new_id) for ids in words]
    return made


def test_a_published_vocabulary_grows(data):
    text = (data / "corpus" / "ru.txt").read_text(encoding="utf-8")[:40_000]
    base = bpetok.get_encoding("gpt2")
    grown = bpetok.extend(base, text, 50_256 + 500, name="gpt2-ru", min_count=3)
    assert (grown.n_vocab, grown.name) == (50_257 + 500, "gpt2-ru")
    assert grown.eot_token == 50_256
    assert grown.count(text) == grown.vocab.provenance["tokens"] < 0.7 * base.count(text)
    assert grown.decode(grown.encode(text)) == text
    assert grown.vocab.provenance["extends"]["fingerprint"] == base.fingerprint
    assert base.vocab.merges is None and grown.vocab.merges is None
    made = [(grown.vocab[left], grown.vocab[right]) for left, right in grown.vocab.recover_merges()[-500:]]
    assert made[:20] == slow_merges(base, text, 20)


def test_a_grown_tokenizer_is_saved_and_loaded_and_grows_on(tmp_path, small_text):
    base = bpetok.train(small_text, 300, special_tokens=["<s>"])
    grown = bpetok.extend(base, small_text, 320)
    grown.save(tmp_path / "grown.bpetok")
    again = bpetok.load(tmp_path / "grown.bpetok")
    assert again == grown
    assert bpetok.extend(again, small_text, 340) == bpetok.extend(grown, small_text, 340)


def test_in_hugging_faces_order_the_bytes_of_a_published_vocabulary_come_in_theirs():
    # A space stands behind all letters there, as in the ids of gpt2.
    base = bpetok.get_encoding("gpt2")
    for tie_break in ("smallest", "huggingface"):
        grown = bpetok.extend(base, "qx xq", 50_257, tie_break=tie_break)
        assert grown.vocab[50_257] == b"qx"


def test_counts_of_the_same_pattern_are_a_source_and_others_are_refused(small_text):
    base = bpetok.train(small_text, 300, pattern="gpt2")
    counts = bpetok.PretokenCounts("gpt2")
    counts.add_text(small_text)
    assert bpetok.extend(base, counts, 320) == bpetok.extend(base, small_text, 320)
    with pytest.raises(bpetok.IncompatibleError, match="counts must be cut by gpt2, as the tokenizer, got gpt4"):
        other = bpetok.PretokenCounts("gpt4")
        other.add_text("a")
        bpetok.extend(base, other, 320)


def test_what_cannot_be_is_refused(small_text):
    base = bpetok.train(small_text, 300, special_tokens=["<s>"])
    with pytest.raises(bpetok.VocabError, match="at least 300, those that there are, got 299"):
        bpetok.extend(base, small_text, 299)
    with pytest.raises(bpetok.VocabError, match="a special token must be new, got '<s>'"):
        bpetok.extend(base, small_text, 300, special_tokens=["<s>"])
    with pytest.raises(bpetok.VocabError, match="a special token must be named once, got '<u>' twice"):
        bpetok.extend(base, small_text, 300, special_tokens=["<u>", "<u>"])
    with pytest.raises(bpetok.VocabError, match="must not also merge"):
        bpetok.extend(base, "zqzq", 301, special_tokens=["zq"])
    with pytest.raises(bpetok.VocabError, match="special_tokens must be a list of texts"):
        bpetok.extend(base, small_text, 300, special_tokens="<u>")
    with pytest.raises(TypeError, match="tok must be a Tokenizer, got 'gpt2'"):
        bpetok.extend("gpt2", small_text, 60_000)


def test_a_grown_tokenizer_whose_ids_have_special_tokens_between_them_is_no_minbpe_model(tmp_path):
    base = bpetok.train("low lower lowest", 258, special_tokens=["<s>"])
    with pytest.raises(bpetok.FormatError, match="the merges to follow in order"):
        bpetok.extend(base, "abab abab", 262).save(tmp_path / "grown.model")


def test_a_tokenizer_with_a_token_that_no_merge_makes_does_not_grow():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256}
    tok = bpetok.Tokenizer(bpetok.Vocab(ranks, {}, None))
    with pytest.raises(bpetok.VocabError, match="merging must make every token of the tokenizer, got b'abc'"):
        bpetok.extend(tok, ["1abc2", "3abc4"], 260)
