"""Shards from files and streams: the same bytes however they are made, in parts, by workers, in several calls."""

import gzip
import io
import json
import os
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpetok
from bpetok import shards
from bpetok.sources import Reading

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture(scope="module")
def tok():
    text = "The cats sat on the mat, and 12 dogs did not.\n" * 20
    return bpetok.train(text, 300, pattern="gpt4", special_tokens=["<|endoftext|>", "<|user|>"])


@pytest.fixture
def units_of_bytes(monkeypatch):
    """`units_of_bytes(n)`: the sources are read in pieces of so many bytes."""

    def set_size(size):
        monkeypatch.setattr(Reading.__init__, "__defaults__", (*Reading.__init__.__defaults__[:-1], size))

    return set_size


def lines(count, seed=0):
    return [
        f"{seed}: the {n} cats sat on {n * 7 % 11} mats é東京, and {n * 5 % 13} dogs did not.\n" for n in range(count)
    ]


@pytest.fixture
def corpus(tmp_path):
    """Files of every kind, and the documents that they hold."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    documents = []
    (folder / "a.txt").write_text("".join(lines(300, 1)))
    documents.append("".join(lines(300, 1)))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": line, "n": 1}) + "\n" for line in lines(150, 2)))
    documents += lines(150, 2)
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": line}) + "\n" for line in lines(80, 3))
    documents += lines(80, 3)
    (folder / "d.txt").write_text("")
    (folder / "e.txt").write_text("no end of line")
    documents.append("no end of line")
    return folder, documents


def contents_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def documents_of(folder, tok, split="train"):
    opened = shards.open(folder).splits[split]
    return [
        tok.decode_bytes(opened.document(n)).replace(b"<|endoftext|>", b"").decode() for n in range(opened.documents)
    ]


def test_every_document_is_there_once_and_in_order(tmp_path, tok, corpus):
    folder, documents = corpus
    manifest = shards.build([folder], tok, tmp_path / "out", val_fraction=0, shard_tokens=1000)
    shards.open(tmp_path / "out").verify()
    assert documents_of(tmp_path / "out", tok) == documents
    assert [(source.name.rsplit("/")[-1], source.bytes) for source in manifest.sources] == [
        (path.name, path.stat().st_size) for path in sorted(folder.iterdir())
    ]


@pytest.mark.parametrize("stands", ["before", "after"])
def test_the_bytes_are_those_of_the_slow_twin(tmp_path, tok, corpus, slow_shards, units_of_bytes, stands):
    folder, documents = corpus
    units_of_bytes(700)
    shards.build([folder], tok, tmp_path / "out", val_fraction=0, shard_tokens=999, end_of_text=stands)
    ids = [tok.encode_ordinary(text) for text in documents]
    eot = tok.eot_token
    slow_shards(tmp_path / "twin", {"train": ids}, shard_tokens=999, end_of_text=eot, stands=stands, tokenizer=tok)
    twin = contents_of(tmp_path / "twin")
    made = contents_of(tmp_path / "out")
    assert made.keys() == twin.keys()
    assert [name for name in made if made[name] != twin[name]] == ["manifest.json"]
    assert shards.open(tmp_path / "out").manifest.shards == shards.open(tmp_path / "twin").manifest.shards


def test_the_bytes_are_the_same_for_any_number_of_workers_and_any_pieces(tmp_path, tok, corpus, units_of_bytes):
    folder, _ = corpus
    made = []
    for number, (workers, size) in enumerate([(1, 8 << 20), (1, 100), (2, 333), (3, 5000)]):
        units_of_bytes(size)
        shards.build([folder], tok, tmp_path / str(number), shard_tokens=1234, workers=workers)
        made.append(contents_of(tmp_path / str(number)))
    assert all(one == made[0] for one in made)
    assert len(made[0]) > 15 and {"val_000000.bin", "train_000005.idx"} <= set(made[0])


@settings(max_examples=40)
@given(
    texts=st.lists(st.text("ab é\n1", max_size=30), max_size=8),
    size=st.integers(1, 60),
    fraction=st.sampled_from([None, 0, 0.3]),
)
def test_pieces_of_any_size_make_the_same_shards(tmp_path_factory, tok, texts, size, fraction):
    folder = tmp_path_factory.mktemp("pieces")
    files = [folder / f"{n}.txt" for n in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["first", *texts]))
    made = []
    for number, unit_bytes in enumerate((8 << 20, size)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reading.__init__, "__defaults__", (*Reading.__init__.__defaults__[:-1], unit_bytes))
            shards.build([*files, rows], tok, folder / str(number), shard_tokens=17, val_fraction=fraction)
        made.append(contents_of(folder / str(number)))
    assert made[0] == made[1]
    shards.write(
        [text for text in [*texts, "first", *texts] if text], tok, folder / "w", shard_tokens=17, val_fraction=fraction
    )
    files = {name: data for name, data in contents_of(folder / "w").items() if name != "manifest.json"}
    assert files == {name: data for name, data in made[0].items() if name != "manifest.json"}


# ---- what is said of documents --------------------------------------------------------------------------------------


def test_text_files_are_cut_at_separator_lines(tmp_path, tok, units_of_bytes):
    stories = [f"Story {n}.\nIt was <|endoftext|> short.\n" for n in range(40)]
    (tmp_path / "stories.txt").write_text("<|endoftext|>\n".join(stories))
    units_of_bytes(90)
    shards.build([tmp_path / "stories.txt"], tok, tmp_path / "out", separator="<|endoftext|>", val_fraction=0)
    train = shards.open(tmp_path / "out").train
    assert [tok.decode(train.document(n)[1:]) for n in range(train.documents)] == stories
    assert train.read(0, train.tokens).tolist().count(tok.eot_token) == 40


def test_special_tokens_become_their_id_where_they_are_allowed(tmp_path, tok, units_of_bytes):
    text = "<|user|>one<|endoftext|>\ntwo <|user|> three\n" * 30
    (tmp_path / "a.txt").write_text(text)
    for number, size in enumerate((8 << 20, 50)):
        units_of_bytes(size)
        out = tmp_path / f"out{number}"
        shards.build([tmp_path / "a.txt"], tok, out, allowed_special={"<|user|>"}, val_fraction=0)
        expected = tok.encode(text, allowed_special={"<|user|>"}, disallowed_special=())
        assert shards.open(out).train.document(0).tolist() == [tok.eot_token, *expected]
        assert shards.open(out).train.text_bytes == len(text.encode()) - 60 * len("<|user|>")
    assert expected.count(tok.encode_single_token("<|user|>")) == 60
    with pytest.raises(bpetok.SpecialTokenError, match=r"allowed_special must be special tokens, got '<\|x\|>'"):
        shards.build([tmp_path / "a.txt"], tok, tmp_path / "no", allowed_special={"<|x|>"})


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "gpt4o"])
@pytest.mark.parametrize("text", ["Hello there.\n\nSome words.\n\n\n" * 90, "東京は。\n\n大きい。\n" * 90])
def test_a_long_text_beside_special_tokens_is_cut_where_no_id_changes(tmp_path, units_of_bytes, pattern, text):
    tok = bpetok.train(text, 290, pattern=pattern, special_tokens=["<|endoftext|>"])
    (tmp_path / "a.txt").write_text(text)
    units_of_bytes(100)
    for allowed in ((), {"<|endoftext|>"}):
        out = tmp_path / f"out{len(allowed)}"
        shards.build([tmp_path / "a.txt"], tok, out, allowed_special=allowed, val_fraction=0)
        assert shards.open(out).train.document(0)[1:].tolist() == tok.encode_ordinary(text)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.json", "a.JSON.zst", "data.arrow", "train_000000.bin", "a.npy"])
def test_what_is_no_text_by_its_name_is_refused(tmp_path, tok, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(bpetok.DataError, match=r"a source must be text, \.jsonl or \.parquet, got \.") as caught:
        shards.build([tmp_path / name], tok, tmp_path / "out")
    assert "call it" in caught.value.hint and not (tmp_path / "out").exists()


def test_arguments_of_another_type_are_refused_by_name(tmp_path, tok):
    with pytest.raises(TypeError, match=r"sources must be a list of them, got 'a\.txt'"):
        shards.build("a.txt", tok, tmp_path / "out")
    with pytest.raises(TypeError, match="tokenizer must be a Tokenizer, got 'gpt2'"):
        shards.build(["a.txt"], "gpt2", tmp_path / "out")


def test_where_all_rows_are_left_out_the_error_says_why(tmp_path, tok):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n' * 3)
    with pytest.raises(bpetok.DataError, match=r"got none; 3 rows were left out, the first: .*'text', got \['body'\]"):
        shards.build([tmp_path / "a.jsonl"], tok, tmp_path / "out", on_error="skip")


@pytest.mark.parametrize("second", [60 + 300, 40])
def test_a_short_stream_is_begun_anew_since_its_end_decides_what_validates(tmp_path, tok, second, units_of_bytes):
    units_of_bytes(100)
    with pytest.raises(Stopped):
        shards.build([iter(lines(60))], tok, tmp_path / "out", shard_tokens=200, progress=stop_after(1500))
    shards.build([iter(lines(second))], tok, tmp_path / "out", shard_tokens=200)
    shards.build([iter(lines(second))], tok, tmp_path / "fresh", shard_tokens=200)
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "fresh")


def test_a_file_whose_name_is_no_utf8_is_a_source(tmp_path, tok):
    name = tmp_path / os.fsdecode(b"caf\xe9.txt")
    name.write_text("the cat\n" * 9)
    shards.build([name], tok, tmp_path / "out", val_fraction=0)
    assert shards.open(tmp_path / "out").manifest.sources[0].name == str(name)


def test_a_bad_row_is_refused_with_file_and_line_or_left_out_and_listed(tmp_path, tok, units_of_bytes):
    rows = [json.dumps({"text": line}) for line in lines(50)]
    rows[20], rows[30] = "{", '{"txt": 1}'
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    units_of_bytes(300)
    for workers in (1, 2):
        with pytest.raises(bpetok.DataError, match=r"rows\.jsonl:21: a row must be a JSON object"):
            shards.build([tmp_path / "rows.jsonl"], tok, tmp_path / "out", val_fraction=0, workers=workers)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".build"]
    manifest = shards.build([tmp_path / "rows.jsonl"], tok, tmp_path / "out", val_fraction=0, on_error="skip")
    assert manifest.skipped == 2
    places = [sum(len(row) + 1 for row in rows[:number]) for number in (20, 30)]
    assert [row.split(": ")[0].rsplit("/")[-1] for row in manifest.skipped_shown] == [
        f"rows.jsonl, byte {place:,}" for place in places
    ]
    assert documents_of(tmp_path / "out", tok) == [line for n, line in enumerate(lines(50)) if n not in (20, 30)]


def test_standard_input_and_iterables_are_sources(tmp_path, tok):
    data = "".join(lines(200)).encode()
    shards.build(
        [io.BytesIO(data), ["one", {"text": "two"}], (x for x in ["three"])], tok, tmp_path / "out", val_fraction=0
    )
    assert documents_of(tmp_path / "out", tok) == [data.decode(), "one", "two", "three"]


def test_a_dataset_of_hugging_face_is_a_source(tmp_path, tok, units_of_bytes):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"body": lines(120)}).save_to_disk(str(tmp_path / "saved"))
    units_of_bytes(500)
    dataset = datasets.load_from_disk(str(tmp_path / "saved"))
    for number, source in enumerate((dataset, dataset.to_iterable_dataset())):
        shards.build([source], tok, tmp_path / str(number), field="body", val_fraction=0, workers=2)
        assert documents_of(tmp_path / str(number), tok) == lines(120)


# ---- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_put_together_hold_what_one_call_holds(tmp_path, tok, corpus, units_of_bytes, parts):
    folder, _ = corpus
    units_of_bytes(900)
    whole = shards.build([folder], tok, tmp_path / "whole", shard_tokens=1000)
    folders = [tmp_path / f"part{n}" for n in range(parts)]
    for n, part in enumerate(folders):
        shards.build([folder], tok, part, shard_tokens=1000, part=(n, parts))
    merged = shards.merge(folders[::-1] if parts > 1 else folders, tmp_path / "merged")
    opened, expected = shards.open(tmp_path / "merged"), shards.open(tmp_path / "whole")
    opened.verify()
    opened.check(tok)
    for name, split in opened.splits.items():
        assert split.read(0, split.tokens).tolist() == expected.splits[name].read(0, split.tokens).tolist()
        assert split.documents == expected.splits[name].documents
    assert merged.sources == whole.sources
    assert merged.arguments == whole.arguments
    assert not (tmp_path / "merged" / ".build").exists()


def test_parts_that_are_not_all_there_or_not_of_one_build_are_not_put_together(tmp_path, tok, corpus):
    folder, _ = corpus
    for n in range(3):
        shards.build([folder], tok, tmp_path / str(n), part=(n, 3))
    shards.build([folder], tok, tmp_path / "other", part=(2, 3), shard_tokens=50)
    shards.build([folder], tok, tmp_path / "after", end_of_text="after")
    shards.build([folder], tok, tmp_path / "of4", part=(3, 4))
    merge, out = shards.merge, tmp_path / "out"
    with pytest.raises(bpetok.DataError, match="a folder for each part from 0 to 2, got no part 1"):
        merge([tmp_path / "0", tmp_path / "2"], out)
    with pytest.raises(bpetok.DataError, match="got part 0 twice"):
        merge([tmp_path / name for name in "0012"], out)
    with pytest.raises(bpetok.DataError, match="must be folders to put together, got none"):
        merge([], out)
    with pytest.raises(bpetok.DataError, match=r"a folder must be given once, got .*after twice"):
        merge([tmp_path / "after", tmp_path / "after"], out)
    with pytest.raises(bpetok.IncompatibleError, match="other: must be a part of the same build"):
        merge([tmp_path / "0", tmp_path / "1", tmp_path / "other"], out)
    with pytest.raises(bpetok.IncompatibleError, match="after: probe must be"):
        merge([tmp_path / "0", tmp_path / "after"], out)
    with pytest.raises(bpetok.IncompatibleError, match=r"must be parts of as many, got parts of \[3, 4\]"):
        merge([tmp_path / "0", tmp_path / "1", tmp_path / "of4"], out)
    assert not out.exists()
    merge([tmp_path / name for name in "012"], out)
    with pytest.raises(bpetok.FormatError, match="holds shards already"):
        merge([tmp_path / name for name in "012"], out)


# ---- going on -------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_after(bytes_):
    def progress(now):
        if now.done - now.before >= bytes_:
            raise Stopped

    return progress


def test_a_build_that_is_stopped_again_and_again_ends_with_the_same_bytes(tmp_path, tok, corpus, units_of_bytes):
    folder, _ = corpus
    units_of_bytes(600)
    shards.build([folder], tok, tmp_path / "whole", shard_tokens=900)
    done = []
    for call in range(30):
        try:
            shards.build(
                [folder], tok, tmp_path / "out", shard_tokens=900, workers=1 + call % 2, progress=stop_after(4000)
            )
        except Stopped:
            assert [path.name for path in (tmp_path / "out").iterdir()] == [".build"]
            done.append(json.loads((tmp_path / "out" / ".build" / "progress.json").read_bytes())["done"])
        else:
            break
    assert done == sorted(done) and len(set(done)) > 3
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


def test_what_was_done_is_not_done_again(tmp_path, tok, corpus, units_of_bytes):
    folder, _ = corpus
    units_of_bytes(600)
    with pytest.raises(Stopped):
        shards.build([folder], tok, tmp_path / "out", shard_tokens=900, progress=stop_after(15_000))
    saved = json.loads((tmp_path / "out" / ".build" / "progress.json").read_bytes())
    seen = []
    shards.build([folder], tok, tmp_path / "out", shard_tokens=900, progress=seen.append)
    assert seen[0].before == seen[0].done == saved["done"] > 5000
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert (seen[-1].done, seen[-1].total) == (total, total)
    opened = shards.open(tmp_path / "out")
    assert seen[-1].tokens == opened.train.tokens + opened.val.tokens
    assert seen[-1].documents == opened.train.documents + opened.val.documents
    assert seen[-1].text_bytes == opened.train.text_bytes + opened.val.text_bytes


def test_streams_are_gone_on_with_if_they_give_the_same_again(tmp_path, tok, units_of_bytes):
    units_of_bytes(500)
    data = "".join(lines(300)).encode()

    def build(data, rows, **how):
        sources = [io.BytesIO(data), ({"text": row} for row in rows)]
        return shards.build(sources, tok, tmp_path / "out", shard_tokens=900, val_fraction=0, **how)

    for size in (6000, len(data) + 3000):
        with pytest.raises(Stopped):
            build(data, lines(200), progress=stop_after(size))
    done = json.loads((tmp_path / "out" / ".build" / "progress.json").read_bytes())["next"]
    assert done[0] == 1 and done[1] > 0
    for other in [(b"x" + data[1:], lines(200)), (data, ["x", *lines(200)[1:]]), (data[:-1], lines(200)), (data, [])]:
        with pytest.raises(bpetok.IncompatibleError, match=r"unfinished build of .* that began with another text"):
            build(*other)
    build(data, lines(200))
    assert documents_of(tmp_path / "out", tok) == [data.decode(), *lines(200)]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"shard_tokens": 901}, r"shard_tokens \(900, now 901\)"),
        ({"end_of_text": "after"}, r"end_of_text \('before', now 'after'\)"),
        ({"separator": "-"}, r"separator \(None, now '-'\)"),
        ({"part": (0, 2)}, r"part \(\[0, 1\], now \[0, 2\]\)"),
    ],
)
def test_an_unfinished_build_of_something_else_is_not_gone_on_with(
    tmp_path, tok, corpus, units_of_bytes, change, match
):
    folder, _ = corpus
    units_of_bytes(600)
    with pytest.raises(Stopped):
        shards.build([folder], tok, tmp_path / "out", shard_tokens=900, progress=stop_after(5000))
    with pytest.raises(bpetok.IncompatibleError, match=rf"unfinished build with other .*{match}") as caught:
        shards.build([folder], tok, tmp_path / "out", **{"shard_tokens": 900, **change})
    assert "--restart" in caught.value.hint
    shards.build([folder], tok, tmp_path / "out", **{"shard_tokens": 900, **change}, restart=True)
    shards.open(tmp_path / "out").verify()


def test_neither_other_sources_nor_another_tokenizer_go_on(tmp_path, tok, corpus, units_of_bytes):
    folder, _ = corpus
    units_of_bytes(600)
    with pytest.raises(Stopped):
        shards.build([folder], tok, tmp_path / "out", progress=stop_after(5000))
    other = bpetok.train("ab" * 9, 270, special_tokens=["<|endoftext|>"])
    with pytest.raises(bpetok.IncompatibleError, match=f"fingerprint .{tok.fingerprint}, now {other.fingerprint}"):
        shards.build([folder], other, tmp_path / "out")
    os.utime(folder / "b.jsonl", (1, 1))
    with pytest.raises(bpetok.IncompatibleError, match=r"other sources \(.*b\.jsonl was altered\)"):
        shards.build([folder], tok, tmp_path / "out")


def test_two_calls_do_not_write_into_one_folder(tmp_path, tok, corpus, monkeypatch):
    folder, _ = corpus
    monkeypatch.setattr("bpetok.shards.place._PATIENCE", 0.1)
    inside, go_on = threading.Event(), threading.Event()

    def wait(now):
        inside.set()
        go_on.wait(10)

    first = threading.Thread(target=shards.build, args=([folder], tok, tmp_path / "out"), kwargs={"progress": wait})
    first.start()
    assert inside.wait(10)
    with pytest.raises(bpetok.FormatError, match="out: another call is writing there"):
        shards.build([folder], tok, tmp_path / "out")
    go_on.set()
    first.join()
    shards.open(tmp_path / "out").verify()


# ---- workers --------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_named_with_what_it_was_encoding(tmp_path, tok, units_of_bytes, monkeypatch):
    (tmp_path / "a.txt").write_text("".join(lines(500)))
    units_of_bytes(2000)
    plain = bpetok.sources.texts.Stretch.read

    def read(self):
        if self.start == 6000:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self)

    monkeypatch.setattr(bpetok.sources.texts.Stretch, "read", read)
    monkeypatch.setattr("bpetok.shards.workers._may_fork", lambda: True)  # so that the workers know of it
    with pytest.raises(bpetok.WorkerError, match=r"SIGKILL while it encoded .*a\.txt, bytes 6,000 to 8,000") as caught:
        shards.build([tmp_path / "a.txt"], tok, tmp_path / "out", workers=2, val_fraction=0)
    assert "run the call again" in caught.value.hint
    monkeypatch.undo()
    units_of_bytes(2000)
    shards.build([tmp_path / "a.txt"], tok, tmp_path / "out", workers=2, val_fraction=0)
    assert documents_of(tmp_path / "out", tok) == ["".join(lines(500))]


def test_what_does_not_fit_the_shared_room_is_sent(tmp_path, tok, units_of_bytes, monkeypatch):
    monkeypatch.setattr("bpetok.shards.workers._ROOM_BYTES", 4096)
    (tmp_path / "a.txt").write_text("".join(lines(500)))
    units_of_bytes(9000)
    shards.build([tmp_path / "a.txt"], tok, tmp_path / "out", workers=2)
    monkeypatch.undo()
    shards.build([tmp_path / "a.txt"], tok, tmp_path / "here", workers=1)
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "here")


def test_where_a_fork_is_not_safe_workers_are_started_anew(tmp_path, tok, corpus, monkeypatch):
    folder, _ = corpus
    monkeypatch.setattr("bpetok.shards.workers._may_fork", lambda: False)
    shards.build([folder], tok, tmp_path / "out", workers=2)
    shards.build([folder], tok, tmp_path / "here", workers=1)
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "here")


def test_no_worker_outlives_its_call(tmp_path, tok, corpus, units_of_bytes):
    import multiprocessing

    folder, _ = corpus
    units_of_bytes(500)
    with pytest.raises(Stopped):
        shards.build([folder], tok, tmp_path / "out", workers=3, progress=stop_after(3000))
    assert multiprocessing.active_children() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bpetok")]
