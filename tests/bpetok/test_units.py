"""Sources in pieces: whatever their size, the pieces are the source."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
from itertools import pairwise

import pytest
import zstandard

import bpetok
from bpetok.sources import Document, Reading, open_sources, places, units, units_of

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
SEPARATOR = "<|endoftext|>"
WORDS = [
    "lo wer",
    "\n",
    "\n",
    "東京都",
    "né é",
    "\r\n",
    "\xa0 ",
    "🙂",
    "  ",
    "'s",
    "1234",
    "мир",
    "<|endoftext|>",
    "a",
    "Z",
]


def random_text(draw, words, count):
    text = "".join(draw.choice(words) for _ in range(draw.randrange(count + 1))).encode()
    return text if draw.random() < 0.7 else text.replace(b"\xa9", b"\xff").replace(b" ", b"\x80\xe6")


# ---- the slow reader: what a source holds ----------------------------------------------------------------------------


def slow_documents(form, data, separator=None, field="text"):
    """(position, text) of each document."""
    if form == ".txt" and separator is None:
        return [(0, data)] if data else []
    found, position, begin, held = [], 0, 0, b""
    for line in lines_of(data):
        position += len(line)
        if form == ".jsonl":
            if line.strip():
                text = json.loads(line.decode().removeprefix("\ufeff"))[field].encode()
                found += [(position - len(line), text)] if text else []
        elif line in (separator, separator + b"\n", separator + b"\r\n"):
            found += [(begin, held)] if held else []
            begin, held = position, b""
        else:
            held += line
    return found + ([(begin, held)] if held else [])


def lines_of(data):
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def documents_of(batches):
    """[(source, position, text)] of batches in order, checked for what they say of themselves."""
    found, heads, is_open = [], {}, False
    for batch in batches:
        assert len(batch.texts) == len(batch.positions)
        assert b"" not in batch.texts
        if not batch.texts:
            continue
        if batch.head:
            heads[batch.source, batch.positions[0]] = batch.head
        elif not (batch.begins and (batch.ends or len(batch.texts) > 1)):  # the text has its head itself
            assert batch.begins and len(batch.texts[0]) >= units.HEAD_BYTES
        for i, part in enumerate(batch.parts()):
            if i == 0 and not batch.begins:
                assert is_open
                source, position, text = found[-1]
                assert (source, position, len(text)) == (batch.source, part.position, part.offset)
                assert batch.head
                found[-1] = (source, position, text + part.text)
            else:
                assert not is_open
                assert part.offset == 0
                found.append((batch.source, part.position, part.text))
            is_open = not part.ends
    assert not is_open
    for source, position, text in found:
        assert heads.get((source, position), text[: units.HEAD_BYTES]) == text[: units.HEAD_BYTES]
    return found


def groups_of(opened, **more):
    groups = list(units_of(opened, **more))
    assert all(pickle.loads(pickle.dumps(group)) == group for group in groups[:3])  # they go to workers
    for group in groups:
        assert group.units
        if len(group.units) > 1:
            assert sum(unit.load for unit in group.units) <= opened[0].reading.unit_bytes
    return groups


def read(groups):
    return [unit.read() for group in groups for unit in group.units]


def check(given, expected, reading, *, parts=(1, 2, 3, 7)):
    """All that is promised of sources: the documents, resuming at each group, parts, weights."""
    opened = open_sources(given(), reading)
    groups = groups_of(opened)
    assert documents_of(read(groups)) == expected
    for source in opened:
        mine = [unit for group in groups for unit in group.units if unit.source == source.number]
        assert [unit.number for unit in mine] == list(range(len(mine)))
        assert source.size in (None, sum(unit.weight for unit in mine))
    for i in random.Random(len(expected)).sample(range(len(groups)), min(4, len(groups))):
        opened = open_sources(given(), reading)
        assert documents_of(read(groups[: i + 1]) + read(groups_of(opened, cursor=groups[i].after))) == expected
    for count in parts if all(source.size is not None for source in opened) else ():
        by_part = [documents_of(read(groups_of(opened, part=(i, count)))) for i in range(count)]
        assert [document for part in by_part for document in part] == expected


# ---- files -----------------------------------------------------------------------------------------------------------


def random_files(draw, form):
    for _ in range(draw.randrange(4)):
        if form == ".jsonl":
            rows = [
                {"n": 1, "text": random_text(draw, WORDS, 12).decode(errors="replace")}
                for _ in range(draw.randrange(12))
            ]
            lines = [
                json.dumps(row, ensure_ascii=draw.random() < 0.5) + draw.choice(["\n", "\n", "\r\n", "\n\n"])
                for row in rows
            ]
            data = "".join(lines).encode()
        else:
            words = [*WORDS, "\n<|endoftext|>\n", "\n<|endoftext|>\r\n", "\n<|endoftext|>\n<|endoftext|>\n"]
            data = random_text(draw, words, draw.choice([3, 30, 200]))
            data = draw.choice([b"", b"<|endoftext|>\n", b"<|endoftext|>\r\n", b""]) + data
        yield data if draw.random() < 0.7 else data.removesuffix(b"\n")


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", [".jsonl", "separated", "blank lines", "whole", "at lines", "uncut"])
def test_the_units_of_files_are_the_files(tmp_path, kind, suffix, monkeypatch):
    monkeypatch.setattr("bpetok.sources.units.HEAD_BYTES", 40)
    form = ".jsonl" if kind == ".jsonl" else ".txt"
    separator = {"separated": SEPARATOR, "blank lines": ""}.get(kind)
    scanner = {"whole": "gpt4", "at lines": "gpt4"}.get(kind)
    draw = random.Random(kind + suffix)
    for number in range(25):
        reading = Reading(
            separator=separator,
            scanner=scanner,
            cut_at_lines=kind == "at lines",
            unit_bytes=draw.choice([1, 2, 3, 7, 20, 50, 100, 200]),
        )
        names, expected = [], []
        for data in random_files(draw, form):
            names.append(tmp_path / f"{number}_{len(names)}{form}{suffix}")
            names[-1].write_bytes(PACK[suffix](data))
            slow = slow_documents(form, data, None if separator is None else separator.encode())
            expected += [(len(names) - 1, *document) for document in slow]
        check(lambda names=names: names, expected, reading)


KINDS_OF_PLACES = [
    places.LineBeginnings(),
    places.Separators(b"<|endoftext|>"),
    places.Separators(b""),
    places.Borders("gpt4"),
    places.LineEnds("gpt2"),
    places.Nowhere(),
]


@pytest.mark.parametrize("kind", KINDS_OF_PLACES, ids=str)
def test_where_a_stream_is_cut_does_not_depend_on_its_chunks(kind):
    draw = random.Random(str(kind))
    words = [*WORDS, "\n<|endoftext|>\n", "\n<|endoftext|>\r\n<|endoftext|>\n"]
    for _ in range(60):
        data = random_text(draw, words, 60)
        size = draw.choice([1, 2, 5, 20, 100])
        whole = list(places.pieces([data], kind, size))
        assert b"".join(piece for _, piece in whole) == data
        for longest in (1, 2, 7, 60):
            cuts = sorted(draw.choices(range(len(data) + 1), k=len(data) // longest))
            chunks = [data[i:j] for i, j in pairwise([0, *cuts, len(data)])]
            assert list(places.pieces(chunks, kind, size)) == whole


def test_ten_thousand_rows_and_their_places(tmp_path):
    rows = [json.dumps({"text": f"row {i} " * (i % 50)}).encode() + b"\n" for i in range(10_000)]
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"".join(rows))
    expected = [(0, *document) for document in slow_documents(".jsonl", b"".join(rows))]
    assert len(expected) == 9800
    check(lambda: [file], expected, Reading(unit_bytes=100_000), parts=(1, 2, 5))


@pytest.mark.parametrize("form", [".jsonl", ".txt"])
def test_documents_far_larger_than_a_unit_stay_whole(tmp_path, form):
    texts = ["a", "b" * 100_000, "c\n" * 20_000, "d", "e" * 9000]
    if form == ".jsonl":
        data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    else:
        data = f"\n{SEPARATOR}\n".join(texts).encode()
    file = tmp_path / f"a{form}"
    file.write_bytes(data)
    expected = [(0, *document) for document in slow_documents(form, data, SEPARATOR.encode())]
    assert [len(text) for _, _, text in expected] == [
        len(text) + (form == ".txt" and i < 4) for i, text in enumerate(texts)
    ]
    check(lambda: [file], expected, Reading(separator=SEPARATOR, unit_bytes=500), parts=(1, 2, 5))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "text", ["東京都に住む人々" * 3000, "x" * 30_000, "a b" * 10 + "é" * 40_000 + " c d", "\n" * 20_000]
)
def test_a_text_is_cut_only_where_pretokens_end_whatever_stands_around(tmp_path, small, text, suffix):
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(PACK[suffix](text.encode()))
    scanner = small.vocab.split.scanner
    check(lambda: [file], [(0, 0, text.encode())], Reading(scanner=scanner, unit_bytes=1000), parts=(1, 3))
    batches = read(units_of(open_sources([file], Reading(scanner=scanner, unit_bytes=1000))))
    ids = [id for batch in batches for text in batch.texts for id in small.encode_ordinary(text)]
    assert ids == small.encode_ordinary(text)


def test_a_long_text_is_cut_into_many_units_that_encode_to_its_ids(tmp_path, small, small_text):
    file = tmp_path / "a.txt"
    file.write_text(small_text, newline="")
    for at_lines in (False, True):
        reading = Reading(scanner=small.vocab.split.scanner, unit_bytes=300, cut_at_lines=at_lines)
        batches = [batch for batch in read(units_of(open_sources([file], reading))) if batch.texts]
        assert len(batches) > len(small_text.encode()) / 2000
        assert [id for batch in batches for text in batch.texts for id in small.encode_ordinary(text)] == (
            small.encode_ordinary(small_text)
        )
        if at_lines:
            texts = [batch.texts[0] for batch in batches]
            assert all(right.startswith(b"\n") for right in texts[1:])


@pytest.mark.parametrize("scanner", [None, "none"])
def test_a_text_without_a_scanner_is_one_unit(tmp_path, scanner):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one two\n" * 1000)
    [group] = units_of(open_sources([file], Reading(scanner=scanner, unit_bytes=10)))
    assert len(group.units) == 1


def test_small_files_are_read_together_and_large_ones_alone(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_bytes(b"x" * (10 if i != 4 else 1000))
    groups = list(units_of(open_sources([tmp_path], Reading(unit_bytes=35))))
    assert [len(group.units) for group in groups] == [3, 1, 1, 3, 2]
    assert [group.after for group in groups] == [(3, 0), (4, 0), (5, 0), (8, 0), (10, 0)]
    assert groups[1].units[0].where == f"{tmp_path}/3.txt, bytes 0 to 10"


def test_an_empty_file_has_no_documents_and_a_packed_one_keeps_its_weight(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "c.jsonl").write_bytes(b"\n\n")
    check(lambda: [tmp_path], [], Reading())


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_a_part_of_a_build_reads_its_share_alone(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        file.write_text("".join(f'{{"text": "{i:04d}"}}\n' for i in range(1000)))
    opened = open_sources(files, Reading(unit_bytes=100))
    counts = [len(documents_of(read(units_of(opened, part=(i, 4))))) for i in range(4)]
    assert sum(counts) == 2000
    assert all(abs(count - 500) < 10 for count in counts)


def test_a_packed_file_and_a_whole_text_are_in_one_part(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 5000))
    (tmp_path / "b.txt").write_bytes(b"one two\n" * 1000)
    opened = open_sources([tmp_path], Reading(unit_bytes=100, scanner="gpt4"))
    for count in (2, 3, 8):
        found = [
            {unit.source for group in units_of(opened, part=(i, count)) for unit in group.units} for i in range(count)
        ]
        assert sorted(one for part in found for one in part) == [0, 1]


@pytest.mark.parametrize("given", [[["text"]], [io.BytesIO(b"text")]])
def test_a_stream_is_not_read_in_parts(given):
    with pytest.raises(bpetok.DataError, match="a source must have a known size to be read in 2 parts"):
        list(units_of(open_sources(given, Reading()), part=(0, 2)))


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0)])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(bpetok.DataError, match=r"the part must be in 0 to .*, got"):
        list(units_of(open_sources([["text"]], Reading()), part=part))


# ---- what cannot be read ---------------------------------------------------------------------------------------------

BAD_ROWS = {
    7: (b'{"text": 5}', "the field 'text' must be text, got 5"),
    8: (b"{", "a row must be a JSON object, got b'{"),
    500: (b'{"text": "\xff"}', "a row must be a JSON object, got"),
    900: (b'{"text": "\xed\xa0\x80"}', "a row must be a JSON object, got"),
    999: (b'["text"]', "a row must have its text in the field 'text', got 'list'"),
    1000: (b'{"body": "x"}', "a row must have its text in the field 'text', got ['body']"),
}


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_bad_rows_are_skipped_and_listed_with_their_lines(tmp_path, suffix):
    lines = [BAD_ROWS.get(number, (b'{"text": "fine"}', ""))[0] for number in range(1, 1001)]
    lines[2] = lines[301] = b" "
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(PACK[suffix](b"\n".join(lines)))
    batches = read(units_of(open_sources([file], Reading(on_error="skip", unit_bytes=200))))
    assert len(documents_of(batches)) == 1000 - len(BAD_ROWS) - 2
    skipped = [line for batch in batches for line in batch.skipped]
    assert len(skipped) == len(BAD_ROWS)
    for line, (number, (_, why)) in zip(skipped, BAD_ROWS.items(), strict=True):
        byte = sum(len(line) + 1 for line in lines[: number - 1])  # lines of plain files are not counted for it
        assert line.startswith(f"{file}:{number}: {why}" if suffix else f"{file}, byte {byte:,}: {why}")


@pytest.mark.parametrize("suffix", ["", ".zst"])
@pytest.mark.parametrize("number", BAD_ROWS)
def test_a_bad_row_is_an_error_with_its_line(tmp_path, suffix, number):
    lines = [b'{"text": "fine"}'] * 1000
    lines[number - 1] = BAD_ROWS[number][0]
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(PACK[suffix](b"\n".join(lines)))
    with pytest.raises(bpetok.DataError) as caught:
        read(units_of(open_sources([file], Reading(unit_bytes=200))))
    assert caught.value.message.startswith(f"{file}:{number}: {BAD_ROWS[number][1]}")
    assert pickle.loads(pickle.dumps(caught.value)).hint == caught.value.hint


def test_a_byte_order_mark_before_the_first_row_is_no_part_of_it(tmp_path):
    data = b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n'
    file = tmp_path / "a.jsonl"
    file.write_bytes(data)
    check(lambda: [file], [(0, 0, b"one"), (0, 19, b"two")], Reading(unit_bytes=5))
    file.write_bytes(data + data)
    with pytest.raises(bpetok.DataError, match=r"a\.jsonl:3: a row must be a JSON object"):
        read(units_of(open_sources([file], Reading(unit_bytes=5))))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one two " * 100)
    units_before = [unit for group in units_of(open_sources([file], Reading(scanner="gpt4"))) for unit in group.units]
    file.write_bytes(b"one two " * 50)
    with pytest.raises(bpetok.DataError, match=r"a\.txt: must stay as it is .* it ends at byte 400"):
        units_before[0].read()


@pytest.mark.parametrize(
    "wrong", [{"separator": "a\n"}, {"separator": "\r"}, {"on_error": "ignore"}, {"unit_bytes": 0}]
)
def test_a_reading_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(bpetok.DataError, match=rf"sources: .*{next(iter(wrong))} must be .*, got"):
        Reading(**wrong)


# ---- parquet, datasets, iterables, streams ---------------------------------------------------------------------------

TEXTS = [["one\n", "", "zwei ü🙂", "x" * 500, "last"][i % 5] * (i % 7 + 1) for i in range(60)]
EXPECTED = [(0, i, text.encode()) for i, text in enumerate(TEXTS) if text]


@pytest.mark.parametrize("unit_bytes", [1, 50, 700, 1 << 20])
@pytest.mark.parametrize("rows_in_group", [1, 7, 60])
def test_the_units_of_parquet_are_row_groups(tmp_path, unit_bytes, rows_in_group):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"id": range(60), "body": TEXTS})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=rows_in_group)
    reading = Reading(field="body", unit_bytes=unit_bytes)
    check(lambda: [tmp_path / "a.parquet"], EXPECTED, reading)
    if unit_bytes == 1:
        opened = open_sources([tmp_path], reading)
        assert len([unit for group in units_of(opened) for unit in group.units]) == -(-60 // rows_in_group)


def test_a_bad_row_of_parquet_is_skipped_or_refused_with_its_number(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a", "b", None, "d"]}), tmp_path / "a.parquet", row_group_size=2)
    opened = open_sources([tmp_path / "a.parquet"], Reading(unit_bytes=1, on_error="skip"))
    batches = read(units_of(opened))
    assert documents_of(batches) == [(0, 0, b"a"), (0, 1, b"b"), (0, 3, b"d")]
    [skipped] = [line for batch in batches for line in batch.skipped]
    assert skipped == f"{tmp_path}/a.parquet:3: the field 'text' must be text, got None"
    with pytest.raises(bpetok.DataError, match=r"a\.parquet:3: the field 'text' must be text, got None"):
        read(units_of(open_sources([tmp_path / "a.parquet"], Reading(unit_bytes=1))))


def test_parquet_without_rows_or_cut_off_or_packed(tmp_path):
    import pyarrow
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), file)
    check(lambda: [file], [], Reading())
    contents = file.read_bytes()
    for broken in (contents[:-1], contents[:20], b"", b"PAR1" * 10):
        file.write_bytes(broken)
        with pytest.raises(bpetok.DataError, match=r"a\.parquet: must be a parquet file"):
            open_sources([file])
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(contents))
    with pytest.raises(bpetok.DataError, match=r"a parquet file must not be packed, got \.gz"):
        open_sources([tmp_path / "a.parquet.gz"])


@pytest.mark.parametrize("unit_bytes", [1, 50, 700, 1 << 20])
def test_the_units_of_a_dataset_are_rows(tmp_path, unit_bytes):
    import datasets

    made = datasets.Dataset.from_dict({"id": list(range(60)), "text": TEXTS})
    made.save_to_disk(tmp_path / "saved")
    reading = Reading(unit_bytes=unit_bytes)
    for dataset in (made, datasets.load_from_disk(str(tmp_path / "saved")), made.with_format("numpy")):
        check(lambda dataset=dataset: [dataset], EXPECTED, reading)
        assert open_sources([dataset])[0].stamp
    reverse = [(0, i, text) for i, text in enumerate(text.encode() for text in reversed(TEXTS)) if text]
    check(lambda: [made.select(range(59, -1, -1))], reverse, reading)
    check(lambda: [made.to_iterable_dataset(num_shards=3)], EXPECTED, reading)


def test_a_part_reads_no_rows_of_another():
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["fine"] * 30 + [None] + ["fine"] * 29})
    opened = open_sources([rows], Reading(unit_bytes=20))
    assert len(documents_of(read(units_of(opened, part=(0, 2))))) in range(25, 31)
    with pytest.raises(bpetok.DataError, match=":31: the field 'text' must be text, got None"):
        read(units_of(opened, part=(1, 2)))


def test_a_dataset_without_the_column_and_one_of_several_splits_are_refused():
    import datasets

    made = datasets.Dataset.from_dict({"body": ["x"]})
    with pytest.raises(bpetok.DataError, match=r"must have its text in the field 'text', got \['body'\]"):
        open_sources([made])
    with pytest.raises(bpetok.DataError, match=r"got a DatasetDict of 'test', 'train'") as caught:
        open_sources([datasets.DatasetDict(train=made, test=made)])
    assert caught.value.hint == "give one split"


def test_a_function_that_makes_the_text_of_a_dataset_is_used():
    import datasets

    made = datasets.Dataset.from_dict({"body": ["x", "y"]})
    made.set_transform(lambda rows: {"text": [body * 2 for body in rows["body"]]})
    assert documents_of(read(units_of(open_sources([made])))) == [(0, 0, b"xx"), (0, 1, b"yy")]


@pytest.mark.parametrize("unit_bytes", [1, 50, 1 << 20])
def test_texts_rows_and_documents_are_sources(unit_bytes):
    given = ["one", b"two\xff", {"text": "three"}, "", Document(b"four", "x:1"), bytearray(b"five"), "\ud83d"]
    expected = [
        (0, i, text) for i, text in enumerate([b"one", b"two\xff", b"three", b"", b"four", b"five", b"\xef\xbf\xbd"])
    ]
    expected = [document for document in expected if document[2]]
    check(lambda: [given], expected, Reading(unit_bytes=unit_bytes))
    check(lambda: [iter(given)], expected, Reading(unit_bytes=unit_bytes))
    check(lambda: [(text for text in given), []], expected, Reading(unit_bytes=unit_bytes))


@pytest.mark.parametrize("bad", [5, None, ["text"]])
def test_what_is_no_text_is_refused(bad):
    with pytest.raises(TypeError, match="text must be str or bytes, got"):
        read(units_of(open_sources([["one", bad]])))


@pytest.mark.parametrize("given", [b"text", 5, None])
def test_what_is_no_source_is_refused(given):
    with pytest.raises(TypeError, match="a source must be files, texts or rows, got"):
        open_sources([given])


def test_bad_rows_among_texts_are_skipped_and_listed():
    batches = read(units_of(open_sources([[{"text": "a"}, {"text": 1}, {}, "d"]], Reading(on_error="skip"))))
    assert documents_of(batches) == [(0, 0, b"a"), (0, 3, b"d")]
    assert [line for batch in batches for line in batch.skipped] == [
        "list:2: the field 'text' must be text, got 1",
        "list:3: a row must have its text in the field 'text', got []",
    ]


@pytest.mark.parametrize(("separator", "scanner"), [(SEPARATOR, None), (None, None), (None, "gpt4")])
@pytest.mark.parametrize("unit_bytes", [1, 50, 1 << 20])
def test_an_open_file_is_a_source_that_is_read_once(small_text, separator, scanner, unit_bytes):
    data = f"one two\n{SEPARATOR}\nthree four\n{SEPARATOR}\n{small_text[:3000]}".encode()
    expected = [(0, *document) for document in slow_documents(".txt", data, separator and separator.encode())]
    reading = Reading(separator=separator, scanner=scanner, unit_bytes=unit_bytes)
    check(lambda: [io.BytesIO(data)], expected, reading)
    opened = open_sources([io.BytesIO(data)], reading)
    assert documents_of(read(units_of(opened))) == expected
    with pytest.raises(bpetok.DataError, match="a stream can be read only once"):
        list(units_of(opened))


@pytest.mark.parametrize("seen", [0, 1, 2, 40, None])
@pytest.mark.parametrize("kind", ["stream", "iterator", "rows with a bad one"])
def test_looking_ahead_takes_nothing_from_a_stream(kind, seen):
    texts = [f"text {i}\n" * 5 for i in range(40)]
    rows = [{"text": text} for text in texts[:20]] + [{}] + texts[20:]
    data = f"{SEPARATOR}\n".join(texts).encode()
    given = {"stream": io.BytesIO(data), "iterator": iter(texts), "rows with a bad one": iter(rows)}[kind]
    opened = open_sources([given], Reading(separator=SEPARATOR, unit_bytes=100, on_error="skip"))
    for _ in range(2):
        outlines = opened[0].outlines()
        ahead = [
            outline.head.decode() for outline, _ in zip(outlines, range(40 if seen is None else seen), strict=False)
        ]
        outlines.close()
        assert ahead == texts[:seen]
    batches = read(units_of(opened))
    assert [text.decode() for batch in batches for text in batch.texts] == texts
    assert sum(len(batch.skipped) for batch in batches) == (kind == "rows with a bad one")
