"""Documents from files."""

import json
import sys

import pytest

import bpetok
from bpetok import sources


def rows_file(path, *rows):
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return path


def test_a_text_file_is_one_document_byte_for_byte(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\r\ntwo\xff\n")
    assert list(sources.read_documents([file])) == [sources.Document(b"one\r\ntwo\xff\n", str(file))]


def test_a_jsonl_file_is_a_document_a_row(tmp_path):
    file = rows_file(tmp_path / "a.jsonl", {"text": "one\n"}, b"\n", {"text": "zwei ü", "id": 2}, b'{"text": ""}')
    documents = list(sources.read_documents([file]))
    assert [document.text for document in documents] == [b"one\n", "zwei ü".encode(), b""]
    assert [document.where for document in documents] == [f"{file}:1", f"{file}:3", f"{file}:4"]


def test_the_text_may_be_in_another_field(tmp_path):
    file = rows_file(tmp_path / "a.jsonl", {"body": "one", "text": 1})
    assert [document.text for document in sources.read_documents([file], field="body")] == [b"one"]


def test_halves_of_a_surrogate_pair_in_json_are_one_character_and_a_lone_one_is_replaced(tmp_path):
    file = rows_file(tmp_path / "a.jsonl", rb'{"text": "\ud83d\ude42 \ud83d"}')
    assert next(sources.read_documents([file])).text == "🙂 \ufffd".encode()


@pytest.mark.parametrize(
    "row", [b"{", b"not json", b"\xff\xfe", b'{"text": "a"} x', b'{"text": "\xff"}', b"[" * 100_000]
)
def test_a_row_that_is_no_json_is_refused_with_its_line(tmp_path, row):
    file = rows_file(tmp_path / "a.jsonl", {"text": "fine"}, row)
    with pytest.raises(bpetok.DataError, match=r"a\.jsonl:2: a row must be a JSON object, got"):
        list(sources.read_documents([file]))


@pytest.mark.parametrize(
    ("row", "shown"), [({"text": 5}, "5"), ({"text": None}, "None"), ({"text": ["a"]}, r"\['a'\]")]
)
def test_a_row_whose_field_is_no_text_is_refused_with_its_line(tmp_path, row, shown):
    file = rows_file(tmp_path / "a.jsonl", {"text": "fine"}, row)
    with pytest.raises(bpetok.DataError, match=rf"a\.jsonl:2: the field 'text' must be text, got {shown}"):
        list(sources.read_documents([file]))


@pytest.mark.parametrize("row", [{"body": "x"}, {}, [1], "text", 7, None])
def test_a_row_without_its_text_is_refused_with_its_line(tmp_path, row):
    file = rows_file(tmp_path / "a.jsonl", {"text": "fine"}, row)
    with pytest.raises(
        bpetok.DataError, match=r"a\.jsonl:2: a row must have its text in the field 'text', got"
    ) as caught:
        list(sources.read_documents([file]))
    assert caught.value.hint == "name the field (field=, or --field)"


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        list(sources.read_documents([tmp_path / "none.txt"]))


def test_a_folder_stands_for_the_text_files_below_it_sorted(tmp_path):
    for name in ["b.txt", "a/c.jsonl", "a/b.txt", "ignored.bin"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = sources.expand([tmp_path / "ignored.bin", tmp_path])
    assert [str(file.relative_to(tmp_path)) for file in found] == ["ignored.bin", "a/b.txt", "a/c.jsonl", "b.txt"]


def test_a_folder_without_text_files_and_a_path_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(bpetok.DataError, match=r"the folder must hold \.txt, \.jsonl or \.parquet files, got none"):
        sources.expand([tmp_path])
    with pytest.raises(bpetok.DataError, match=r"nowhere: no such file"):
        sources.expand([tmp_path / "nowhere"])


# ---- parquet --------------------------------------------------------------------------------------------------------


def parquet_file(path, **columns):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_a_parquet_file_is_a_document_a_row(tmp_path):
    texts = ["one\n", "", "zwei ü🙂", "x" * 5000, "last"]
    file = parquet_file(tmp_path / "a.parquet", id=range(5), text=texts)
    documents = list(sources.read_documents([file]))
    assert [document.text.decode() for document in documents] == texts
    assert [document.where for document in documents] == [f"{file}:{number}" for number in range(1, 6)]


def test_a_parquet_file_without_the_field_or_with_a_row_without_text_is_refused(tmp_path):
    file = parquet_file(tmp_path / "a.parquet", body=["one", None])
    with pytest.raises(bpetok.DataError, match=r"a\.parquet: a row must have its text .* 'text', got \['body'\]"):
        list(sources.read_documents([file]))
    with pytest.raises(bpetok.DataError, match=r"a\.parquet:2: the field 'body' must be text, got None"):
        list(sources.read_documents([file], field="body"))


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"text, and much of it")
    with pytest.raises(bpetok.DataError, match=r"a\.parquet: must be a parquet file"):
        list(sources.read_documents([tmp_path / "a.parquet"]))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(bpetok.MissingExtraError, match=r"bpetok\[data\]"):
        list(sources.read_documents([tmp_path / "a.parquet"]))


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")

    def refuse(folder, onerror):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "locked")))
        return iter(())

    monkeypatch.setattr("os.walk", refuse)
    with pytest.raises(PermissionError, match="locked"):
        sources.expand([tmp_path])


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
    rows_file(tmp_path / "a.JSONL", {"text": "one"})
    (tmp_path / "b.TXT").write_text("two")
    assert sources.expand([tmp_path]) == [tmp_path / "a.JSONL", tmp_path / "b.TXT"]
    assert [document.text for document in sources.read_documents([tmp_path / "a.JSONL"])] == [b"one"]
