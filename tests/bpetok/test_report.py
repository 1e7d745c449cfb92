"""What a vocabulary holds and does to a text; how a token came to be; where two differ; the page."""

import random
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import report
from bpetok.errors import DataError, IncompatibleError, VocabError
from bpetok.reference import merge_pretoken
from bpetok.reportpage import page

BYTES = {bytes([byte]): byte for byte in range(256)}


def of_ranks(*tokens: bytes, **more) -> bpetok.Tokenizer:
    """A tokenizer of the 256 bytes and these tokens."""
    ranks = BYTES | {token: 256 + i for i, token in enumerate(tokens)}
    return bpetok.Tokenizer(bpetok.Vocab(ranks, pattern=more.pop("pattern", "gpt4"), **more))


# ---- tokens as people read them --------------------------------------------------------------------------------------


@given(st.binary(max_size=20))
def test_what_is_readable_can_be_read_back(token: bytes) -> None:
    shown = report.readable(token)
    assert report.from_readable(shown) == token
    assert shown.isprintable()


def test_half_a_character_is_shown_as_its_bytes_and_a_whole_one_as_itself() -> None:
    assert report.readable("中\t".encode() + b"\xe4\xb8\\") == r"中\t\xe4\xb8\\"
    assert report.readable("\u200b".encode()) == r"\xe2\x80\x8b"
    assert report.from_readable(r"\begin\x4") == rb"\begin\x4", "no escape is text"


# ---- how a token came to be ------------------------------------------------------------------------------------------


def test_a_token_is_derived_as_the_reference_merges_it(small: bpetok.Tokenizer, small_text: str) -> None:
    ranks = small.vocab.ranks
    for token in ranks:
        (tree,) = report.derive(small.vocab, token)
        assert (tree.token, tree.id) == (token, ranks[token])
        for node in tree.walk():
            if node.parts:
                assert b"".join(part.token for part in node.parts) == node.token
                assert all(part.rank is None or part.rank < node.rank for part in node.parts)
            else:
                assert len(node.token) == 1
    for word in small_text.split()[:300]:
        ids = [tree.id for tree in report.derive(small.vocab, word.encode())]
        assert word.encode() in ranks or ids == merge_pretoken(word.encode(), ranks)


def test_a_list_of_merges_is_obeyed_in_its_order_and_only_its_pairs_merge() -> None:
    a, b, c = b"abc"
    tok = of_ranks(b"ab", b"bc", b"abc", semantics="merges", merges=[(b, c), (a, b), (256, c)])
    assert [tree.id for tree in report.derive(tok.vocab, b"abc")] == [a, 257], "(a, bc) is no merge"
    (tree,) = report.derive(tok.vocab, b"ab")
    assert (tree.id, tree.rank) == (256, 1)
    by_rank = of_ranks(b"ab", b"bc", b"abc")
    (tree,) = report.derive(by_rank.vocab, b"abc")
    assert [part.token for part in tree.parts] == [b"ab", b"c"]
    assert tree.to_dict()["parts"][0] == {
        "token": "ab",
        "id": 256,
        "rank": 256,
        "parts": [
            {"token": "a", "id": 97, "rank": None, "parts": []},
            {"token": "b", "id": 98, "rank": None, "parts": []},
        ],
    }


def test_what_no_merge_makes_is_derived_as_several() -> None:
    tok = of_ranks(b"xyz")
    assert [tree.token for tree in report.derive(tok.vocab, b"xyz")] == [b"x", b"y", b"z"]
    for data in (b"", b"x" * 513):
        with pytest.raises(DataError, match=f"must be 1 to 512 bytes, got {len(data)}"):
            report.derive(tok.vocab, data)


# ---- what a vocabulary holds -----------------------------------------------------------------------------------------


def test_a_vocabulary_is_measured_as_counted_by_hand() -> None:
    tok = of_ranks(b"th", b"the", b" the", b"Th", b"The", b"\xe4\xb8", b"qqqqqq")
    held = report.measure_vocab(tok)
    assert held.tokens == 263
    assert held.unreachable == (b"qqqqqq",)
    assert held.partial == 1
    groups = {frozenset(group) for group in held.near_duplicates}
    assert frozenset({b"the", b" the", b"The"}) in groups and frozenset({b"th", b"Th"}) in groups
    assert held.near_duplicates[0] == (b"the", b" the", b"The"), "the largest first, by id"
    assert held.in_near_duplicates == 2 + 1 + 26, "A and a, and so on"
    assert held.longest[:3] == (b"qqqqqq", b" the", b"the")


# ---- what it does to a text ------------------------------------------------------------------------------------------


def test_tokens_and_words_count_with_their_script() -> None:
    tok = of_ranks("д".encode(), b" b", "中".encode()[:2])
    text = "да ab b1中"
    use = report.measure_text(tok, [text.encode()])
    #       д, two bytes of а | blank, a, b | " b" | 1 | two parts of 中
    assert (use.bytes, use.characters, use.tokens) == (13, 9, 10)
    scripts = {one.script: (one.tokens, one.bytes, one.characters, one.words) for one in use.scripts}
    assert scripts == {
        "Cyrillic": (3, 4, 2, 1),
        "Latin": (3, 4, 3, 2),
        "no script": (2, 2, 3, 0),
        "Han": (2, 3, 1, 1),
    }
    assert use.bytes_per_token == 1.3
    assert use.fertility == 6 / 3, "Han has no words to count"
    by_name = {one.script: one for one in use.scripts}
    assert by_name["Cyrillic"].fertility == 3 and by_name["Han"].fertility is None
    assert by_name["Han"].tokens_per_character == 2


def test_marks_of_no_script_are_no_words_of_a_language() -> None:
    (use,) = report.measure_text(of_ranks(), ["\u2764\ufe0f".encode()]).scripts
    assert (use.script, use.characters, use.words, use.fertility) == ("no script", 2, 1, None)


@pytest.mark.parametrize("seed", range(4))
def test_measures_depend_neither_on_chunks_nor_on_pieces(small, small_text, seed, monkeypatch) -> None:
    draw = random.Random(seed)
    data = small_text.encode()[:40_000] + b"\xff\xe4\xb8 \xf0\x9f" + "e\u0301\u0301 мир".encode()
    whole = report.measure_text(small, [data])
    assert whole.tokens == small.count(data) == sum(one.tokens for one in whole.scripts)
    assert whole.bytes == len(data) == sum(one.bytes for one in whole.scripts)
    assert whole.characters == sum(one.characters for one in whole.scripts)
    assert whole.counts.tolist() == np.bincount(small.encode_ordinary(data), minlength=small.n_vocab).tolist()
    cuts = sorted(draw.sample(range(len(data)), 7))
    monkeypatch.setattr(report, "_PIECE", draw.choice([1, 3, 1000]))
    chunked = report.measure_text(small, [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    assert chunked.scripts == whole.scripts
    assert chunked.counts.tolist() == whole.counts.tolist()


def test_evenness_is_one_for_equal_counts_and_nought_for_one_token() -> None:
    counts = np.zeros(300, np.int64)
    counts[:4] = 5
    use = report.TextUse(20, 20, 20, (), counts)
    assert use.renyi_efficiency(4) == pytest.approx(1)
    assert use.renyi_efficiency(16) == pytest.approx(0.5)
    counts[1:4] = 0
    counts[0] = 20
    assert use.renyi_efficiency(256) == pytest.approx(0)


def test_no_text_has_no_ratios() -> None:
    measured = report.measure(of_ranks(), [])
    assert measured.use.tokens == 0 and measured.never_used == []
    assert np.isnan([measured.use.bytes_per_token, measured.use.fertility, measured.use.renyi_efficiency(256)]).all()
    about = measured.to_dict()["text"]
    assert about["bytes_per_token"] is None and about["fertility"] is None and about["renyi_efficiency"] is None
    assert "<h2>Most used</h2>" in page(measured)


def test_never_used_and_most_used_are_told_from_the_counts() -> None:
    measured = report.measure(of_ranks(b"ab", b"cd"), [b"abab c"])
    assert measured.never_used == [b"cd"]
    assert measured.most_used(1) == [(b"ab", 2)]
    about = measured.to_dict()
    assert about["never_used"] == {"count": 1, "first": ["cd"]}
    assert about["text"]["most_used"][0] == {"token": "ab", "count": 2}


# ---- where several differ --------------------------------------------------------------------------------------------


def test_differences_are_the_spans_between_common_borders() -> None:
    one, other = of_ranks(b"ab", b"cd"), of_ranks(b"bc", b"cd")
    found = report.compare([one, other], b"abcd\ncd abcd")
    assert found.tokens == (7, 9)
    assert (found.spans, found.span_bytes) == (2, 8)
    assert [(span.byte, span.line) for span in found.first] == [(0, 1), (8, 2)]
    assert found.first[0].cuts == ((b"ab", b"cd"), (b"a", b"bc", b"d"))
    assert report.compare([one, one], b"abcd").spans == 0
    assert report.compare([one, other], b"").tokens == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_differences_are_those_that_brute_force_finds(seed) -> None:
    draw = random.Random(seed)
    data = bytes(draw.choices(b"abc \n", k=400))
    toks = [of_ranks(*{bytes(draw.choices(b"abc", k=2)) for _ in range(4)}) for _ in range(3)]
    borders = []
    for tok in toks:
        ends = np.cumsum([len(token) for token in tok.decode_tokens_bytes(tok.encode_ordinary(data))]).tolist()
        borders.append({0, *ends})
    common = sorted(set.intersection(*borders))
    expected = [a for a, b in pairwise(common) if any(a < x < b for of in borders for x in of)]
    found = report.compare(toks, data, how_many=1000)
    assert [span.byte for span in found.first] == expected and found.spans == len(expected)
    for span in found.first:
        assert len({b"".join(cut) for cut in span.cuts}) == 1 and len(set(span.cuts)) > 1


def test_a_tokenizer_that_changes_the_text_is_not_compared() -> None:
    tok = of_ranks(normalization="NFC")
    assert report.compare([tok, of_ranks()], "é".encode()).spans == 0
    with pytest.raises(IncompatibleError, match="brings text to NFC"):
        report.compare([tok, of_ranks()], "e\u0301".encode())


def test_the_two_ways_of_merging_are_told_apart_where_they_differ(small: bpetok.Tokenizer, small_text: str) -> None:
    twin = bpetok.Tokenizer(report.with_other_semantics(small.vocab))
    assert twin.vocab.semantics == "merges"
    assert report.compare([small, twin], small_text.encode()).spans == 0
    # By rank a and bc merge, as abc is a token; the list makes abc of ab and c alone.
    a, b, c = b"abc"
    listed = of_ranks(b"bc", b"ab", b"abc", semantics="merges", merges=[(b, c), (a, b), (257, c)])
    ranked = bpetok.Tokenizer(report.with_other_semantics(listed.vocab))
    (span,) = report.compare([listed, ranked], b"abcx").first
    assert span.cuts == ((b"a", b"bc"), (b"abc",))
    with pytest.raises(VocabError, match="no merge of two tokens"):
        report.with_other_semantics(of_ranks(b"xyz").vocab)


# ---- the page --------------------------------------------------------------------------------------------------------

VOID = {"meta", "line", "rect", "path"}


class Outline(HTMLParser):
    """The elements and attributes of a page; makes sure that all are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_that_runs_nothing_and_shows_tokens_as_text() -> None:
    evil = [b"<script>alert(1)</script>", b'"><img src=x onerror=alert(1)>', b"&amp;", b"</code>"]
    tok = of_ranks(*evil, name="<b>evil</b>", special_tokens={"<|x|>": 400})
    written = page(report.measure(tok, [b"plain text & <tags>\n", "मानक हिन्दी".encode(), *evil]))
    outline = Outline()
    outline.feed(written)
    outline.close()
    assert outline.open == []
    assert not outline.seen & {"script", "img", "iframe", "link", "object"}
    assert not {name for name in outline.attributes if name.startswith("on")} | (outline.attributes & {"src", "href"})
    assert "http:" not in written and "https:" not in written and "url(" not in written
    assert evil[0].decode() in outline.text and "<b>evil</b>" in outline.text
    assert "Devanagari" in outline.text and "prefers-color-scheme: dark" in written
