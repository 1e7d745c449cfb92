"""Which documents validate, against the same rule on texts that are held whole."""

import gzip
import io
import json
import math
import random

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import _core
from bpetok.sources import Reading, open_sources, texts
from bpetok.sources.survey import ByHash, From, survey

# ---- the slow twin: all texts at once --------------------------------------------------------------------------------


def validates(text, fraction):
    return xxhash.xxh64_intdigest(text[:65536], seed=0) < fraction * 2**64


def slow_split(documents, fraction):
    """The texts that train and those that validate."""
    documents = [text for text in documents if text]
    if fraction == 0:
        return documents, []
    if len(documents) < 100:
        return slow_split_at_line(documents, 0.1 if fraction is None else fraction)
    picked = [validates(text, 0.01 if fraction is None else fraction) for text in documents]
    if not any(picked):
        picked[-1] = True
    pairs = list(zip(documents, picked, strict=True))
    return [text for text, is_picked in pairs if not is_picked], [text for text, is_picked in pairs if is_picked]


def slow_split_at_line(documents, fraction):
    left = max(1, int(sum(map(len, documents)) * (1 - fraction)))
    train, val = [], []
    for i, text in enumerate(documents):
        if left <= 0:
            val.append(text)
        elif len(text) <= left:
            train.append(text)
        else:
            cut = slow_line_start(text, left, i + 1 == len(documents))
            train.append(text[:cut])
            val += [text[cut:]] if cut < len(text) else []
        left -= len(text)
    return train, val


def slow_line_start(text, near, is_last):
    behind = text.find(b"\n", near) + 1
    if 0 < behind < len(text) or not is_last:
        return behind or len(text)
    before = text.rfind(b"\n", 0, near) + 1
    if before > 0:
        return before
    while near > 0 and text[near] & 0xC0 == 0x80:
        near -= 1
    return near or len(text)


def split_by(rule, opened):
    """The texts that train and those that validate, by a rule."""
    train, val = [], []
    for source in opened:
        documents = {}
        for unit in source.units():
            for part in unit.read().parts():
                documents[part.position] = documents.get(part.position, b"") + part.text
        for position, text in documents.items():
            if isinstance(rule, ByHash):
                (val if _core.xxh64(text[:65536]) < rule.limit else train).append(text)
                continue
            place = (rule.source, rule.position)
            cut = rule.offset if (source.number, position) == place else (source.number, position) < place and len(text)
            train += [text[:cut]] if cut else []
            val += [text[cut:]] if cut < len(text) else []
    return train, val


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_the_core_hashes_as_xxhash_does():
    draw = random.Random(1)
    for size in [*range(100), 1000, 65535, 65536]:
        data = draw.randbytes(size)
        assert _core.xxh64(data) == xxhash.xxh64_intdigest(data, seed=0)


LINES = [[f"document {i}\n".encode() for i in range(count)] for count in (1, 2, 5, 99, 100, 101, 400)]


@pytest.mark.parametrize("fraction", [None, 0, 0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("documents", LINES, ids=len)
def test_the_rule_picks_what_the_slow_twin_picks(documents, fraction):
    opened = open_sources([documents])
    assert split_by(survey(opened, fraction), opened) == slow_split(documents, fraction)


def test_of_99_documents_the_end_validates_and_of_100_the_hash_decides():
    documents = LINES[4]
    assert isinstance(survey(open_sources([documents[:99]]), 0.5), From)
    assert survey(open_sources([documents]), 0.5) == ByHash(2**63)
    assert survey(open_sources([[*documents[:99], "", documents[99]]]), 0.5) == ByHash(2**63)
    assert isinstance(survey(open_sources([[*documents[:99], ""]]), 0.5), From)


def test_where_the_hash_picks_none_the_last_document_validates(tmp_path):
    documents = [text for text in LINES[-1] if not validates(text, 0.01)]
    assert len(documents) >= 100
    assert survey(open_sources([documents])) == From(0, len(documents) - 1, 0)
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": text.decode()}) + "\n" for text in documents))
    opened = open_sources([documents[:5], file])
    assert split_by(survey(opened), opened) == ([*documents[:5], *documents[:-1]], documents[-1:])


@given(
    documents=st.lists(st.text("ab\né", max_size=30).map(str.encode), max_size=10),
    fraction=st.sampled_from([None, 0.01, 0.2, 0.5, 0.9]),
)
def test_few_documents_are_split_as_the_slow_twin_splits_them(documents, fraction):
    opened = open_sources([documents[:3], documents[3:]])
    assert split_by(survey(opened, fraction), opened) == slow_split(documents, fraction)


@given(documents=st.lists(st.binary(max_size=40), max_size=4))
def test_bytes_that_are_no_text_are_split_as_the_slow_twin_splits_them(documents):
    opened = open_sources([documents])
    assert split_by(survey(opened), opened) == slow_split(documents, None)


WHOLE = [
    b"".join(b"line %03d\n" % i for i in range(400)),
    b"".join(b"line %03d\n" % i for i in range(400))[:-1],
    "東京都に住む人々".encode() * 300,
    b"first line\n" + "東京都に住む人々".encode() * 300,
    b"first line\n" + b"x" * 3000 + b"\n",
    b"\x80" * 3000,
    b"a" + b"\x80" * 3000,
    b"x" * 3000,
    b"x",
    b"",
]


@pytest.mark.parametrize("text", WHOLE, ids=range(len(WHOLE)))
@pytest.mark.parametrize("kind", ["plain", "packed", "stream"])
def test_a_whole_text_is_cut_where_the_slow_twin_cuts_it(tmp_path, monkeypatch, text, kind):
    monkeypatch.setattr(texts, "_WINDOW_BYTES", 100)
    monkeypatch.setattr("bpetok.sources.packing._READ_BYTES", 7)
    names = [tmp_path / f"{i}.txt{'.gz' if kind == 'packed' else ''}" for i in range(3)]
    for name in names:
        name.write_bytes(gzip.compress(text) if kind == "packed" else text)
    for count in (1, 2, 3):
        for fraction in (None, 0.4, 0.9):
            given = [io.BytesIO(text) for _ in range(count)] if kind == "stream" else names[:count]
            opened = open_sources(given, Reading(unit_bytes=50))
            assert split_by(survey(opened, fraction), opened) == slow_split([text] * count, fraction)


# ---- how much it reads -----------------------------------------------------------------------------------------------


class Counting(io.BytesIO):
    """A stream that counts what is read of it."""

    taken = 0

    def read(self, size=-1, /):
        """As any file's."""
        data = super().read(size)
        self.taken += len(data)
        return data


def test_no_more_is_read_than_it_takes():
    documents = [b"document %d\n" % i for i in range(200_000)]
    asked = 0

    def texts():
        nonlocal asked
        for asked, text in enumerate(documents, start=1):  # noqa: B007
            yield text

    first = next(i for i, text in enumerate(documents) if validates(text, 0.01))
    opened = open_sources([texts()], Reading(unit_bytes=100))
    assert survey(opened) == ByHash(math.ceil(0.01 * 2**64))
    assert asked <= max(100, first) + 20
    assert [text for unit in opened[0].units() for text in unit.read().texts] == documents


def test_nothing_is_read_where_nothing_shall_validate():
    file = Counting(b"text")
    assert survey(open_sources([file]), 0) == ByHash(0)
    assert file.taken == 0


def test_of_a_long_text_the_head_and_the_end_are_read(tmp_path):
    file = tmp_path / "a.txt"
    with open(file, "wb") as opened:
        opened.truncate(1 << 36)
        opened.seek(int((1 << 36) * 0.9) + 1000)
        opened.write(b"\n")
    assert survey(open_sources([file])) == From(0, 0, int((1 << 36) * 0.9) + 1001)


@pytest.mark.parametrize("fraction", [-0.1, 1, 2, float("nan")])
def test_the_share_that_validates_must_be_below_one(fraction):
    with pytest.raises(bpetok.DataError, match="val_fraction must be in 0 to below 1, got"):
        survey([], fraction)


def test_without_documents_there_is_nothing_to_validate():
    assert isinstance(survey(open_sources([[], ["", b""]])), ByHash)


def test_a_bad_row_is_refused_or_skipped_by_the_survey_too():
    rows = [{"text": "one\n"}, {}, {"text": "two\n"}]
    with pytest.raises(bpetok.DataError, match=r"list:2: a row must have its text"):
        survey(open_sources([rows]))
    assert survey(open_sources([rows], Reading(on_error="skip")), 0.5) == From(0, 2, 0)
