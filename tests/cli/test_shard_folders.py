"""`bpetok info`, `decode`, `verify` and `export` of a folder of shards, as their users type them."""

import json
import os
import shutil

import numpy as np
import pytest

import bpetok
from bpetok import shards
from bpetok.shards import exporting
from cli import exchange

TEXTS = [f"document {n}: the cats sat on {n} mats\n".encode() for n in range(40)] + [b"\xff\x00 no text <|endoftext|>"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tok):
    """A folder of tokenizers and shards: `my.bpetok`, `other.bpetok`, `shards` and `after`."""
    folder = tmp_path_factory.mktemp("made")
    tok.save(folder / "my.bpetok")
    bpetok.train("another one", 260, special_tokens=["<|endoftext|>"], name="other").save(folder / "other.bpetok")
    for name, stands in (("shards", "before"), ("after", "after")):
        shards.write(TEXTS, tok, folder / name, shard_tokens=200, val_fraction=0.3, end_of_text=stands)
    return folder


@pytest.fixture
def folder(tmp_path, made):
    """A copy of it, to be damaged."""
    return shutil.copytree(made, tmp_path / "made")


def alter(path, place):
    with open(path, "rb+") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_tells_what_a_folder_of_shards_is(call, made, tok) -> None:
    about = call("bpetok", "info", "shards", "--json", cwd=made).json
    opened = shards.open(made / "shards")
    for name in ("train", "val"):
        split, told = opened.splits[name], about[name]
        assert told["files"] == len(list((made / "shards").glob(f"{name}_*.bin"))) > 1
        assert (told["ids"], told["documents"]) == (split.tokens, split.documents)
        assert told["bytes_per_token"] == told["bytes_of_text"] / told["ids"] > 1
    assert about["train"]["bytes_of_text"] + about["val"]["bytes_of_text"] == sum(map(len, TEXTS))
    sizes = [path.stat().st_size for path in (made / "shards").iterdir() if path.suffix in (".bin", ".idx")]
    assert about["bytes_of_files"] == sum(sizes)
    assert (about["tokenizer"], about["fingerprint"], about["vocab_size"]) == ("my", tok.fingerprint, tok.n_vocab)
    assert (about["dtype"], about["end_of_text"]) == ("uint16", tok.eot_token)
    assert about["end_of_text_stands"] == "before each document" and about["skipped"] == 0
    assert about["arguments"]["shard_tokens"] == 200 and isinstance(about["sources"], list)
    shown = call("bpetok", "info", "shards", cwd=made).text
    assert f"fingerprint         {tok.fingerprint}\n" in shown and "\n  bytes per token" in shown
    assert "after each document" in call("bpetok", "info", "after", cwd=made).text


# ---- decode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shards", "after"])
def test_decode_writes_each_documents_text(call, made, name) -> None:
    about = call("bpetok", "info", name, "--json", cwd=made).json
    back = []
    for split in ("train", "val"):
        for number in range(about[split]["documents"]):
            args = ("decode", name, "--document", number, "--split", split, "-t", "my.bpetok")
            back.append(call("bpetok", *args, cwd=made).out)
    # Of so few documents the last ones validate, and the border may cut one in two.
    assert b"".join(back) == b"".join(TEXTS) and set(back[:20]) <= set(TEXTS)


def test_decode_of_a_document_that_is_no_text_tells_its_bytes_as_json(call, made) -> None:
    last = call("bpetok", "info", "shards", "--json", cwd=made).json["val"]["documents"] - 1
    args = ("decode", "shards", "--document", last, "--split", "val", "-t", "my.bpetok", "--json")
    about = call("bpetok", *args, cwd=made).json
    assert about == {"text": TEXTS[-1].decode(errors="replace"), "base64": "/wAgbm8gdGV4dCA8fGVuZG9mdGV4dHw+"}


def test_decode_with_another_tokenizer_is_refused_with_both_fingerprints(call, made, tok) -> None:
    done = call("bpetok", "decode", "shards", "--document", 0, "-t", "other.bpetok", cwd=made)
    other = bpetok.load(made / "other.bpetok").fingerprint
    assert (done.code, done.out) == (5, b"") and tok.fingerprint in done.err and other in done.err
    assert call("bpetok", "decode", "shards", "--document", 0, cwd=made).code == 5  # bpetok_32k did not make them


def test_decode_takes_the_vocabulary_that_the_shards_name_if_it_made_them(call, tmp_path) -> None:
    shards.write(TEXTS, bpetok.get_encoding("bpetok_64k"), tmp_path / "shards", val_fraction=0)
    assert call("bpetok", "decode", "shards", "--document", 3, cwd=tmp_path).out == TEXTS[3]
    tok = bpetok.train("ab" * 9, 257, special_tokens=["<|endoftext|>"], name="bpetok_64k")
    shards.write(TEXTS, tok, tmp_path / "named", val_fraction=0)
    assert call("bpetok", "decode", "named", "--document", 3, cwd=tmp_path).code == 5


WRONG = {
    "no document": (("decode", "shards"), "a folder of shards with --document"),
    "binary": (("decode", "shards", "--document", 1, "--binary"), "without --binary"),
    "a document of a file": (("decode", "my.bpetok", "--document", 1), "a folder of shards with --document"),
    "a split of a file": (("decode", "my.bpetok", "--split", "val"), "--split: needs a folder of shards"),
    "a folder without shards": (("decode", "."), "must have a file of ids, or a folder of shards"),
    "no such file": (("decode", "gone"), "'gone' does not exist"),
    "too high": (("decode", "shards", "--document", 999, "-t", "my.bpetok"), "which train has, got 999"),
    "a text for shards": (("info", "shards", "--text", "my.bpetok"), "measures a tokenizer"),
    "against for shards": (("verify", "shards", "--against", "my.bpetok"), "need a tokenizer, and no folder of shards"),
    "-t for a tokenizer": (("verify", "my.bpetok", "-t", "my.bpetok"), "needs a folder of shards; --against"),
    "no format": (("export", "shards", "-o", "out"), "must be one of npy, nanogpt, datatrove, parquet for a folder"),
    "a tokenizer's format": (("export", "shards", "--to", "gguf", "-o", "out"), "for a folder of shards, got gguf"),
    "a format of shards": (("export", "my.bpetok", "--to", "npy", "-o", "out"), "for a tokenizer, got npy"),
    "nowhere to export to": (("export", "shards", "--to", "npy", "-o", "gone/out"), "must be a folder that may be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_go_together_is_a_usage_error(call, made, name) -> None:
    args, message = WRONG[name]
    done = call("bpetok", *args, cwd=made)
    assert done.code == 2 and message in " ".join(done.err.split()), done.err
    assert not (made / "out").exists()


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_verify_says_in_one_line_that_all_files_are_as_they_were_written(call, made) -> None:
    done = call("bpetok", "verify", "shards", cwd=made)
    files = len(list((made / "shards").iterdir()))
    about = call("bpetok", "verify", "shards", "-t", "my.bpetok", "--json", "-q", cwd=made).json
    assert done.code == 0 and done.text.startswith(f"shards: {files} files are as they were written; ")
    assert done.text.endswith("B/s\n") and f"{about['bytes']:,} bytes" in done.text and done.err == ""
    assert about["files"] == files and about["seconds"] > 0 and about["tokenizer"] == "my.bpetok"
    told = call("bpetok", "verify", "shards", "-t", "my.bpetok", cwd=made).text
    assert "as they were written, made by my.bpetok; " in told


def test_verify_names_the_altered_file_and_place_with_exit_code_4(run, folder) -> None:
    alter(folder / "shards" / "train_000001.bin", 1030)
    done = run("bpetok", "verify", "shards", cwd=folder)
    assert (done.code, done.out) == (4, b"")
    assert "shards/train_000001.bin: sha256 must be " in done.err
    assert "altered between byte 0 and 1,424" in done.err and "\nhint: " in done.err


DAMAGE = {
    "cut off": (lambda at: os.truncate(at / "val_000000.bin", 1100), 4, "must be 1,424 bytes long, got 1,100"),
    "index altered": (lambda at: alter(at / "val_000000.idx", 40), 4, "val_000000.idx: sha256 must be"),
    "header altered": (lambda at: alter(at / "val_000000.bin", 5), 4, "val_000000.bin: the header must begin with"),
    "gone": (lambda at: (at / "train_000000.bin").unlink(), 4, "train_000000.bin: is named in the manifest but is not"),
    "too many": (lambda at: shutil.copy(at / "val_000000.bin", at / "val_1.bin"), 4, "val_1.bin: is there but is not"),
    "manifest altered": (lambda at: alter(at / "manifest.json", 300), 4, "manifest.json: the sha256 in its last line"),
    "no manifest": (lambda at: (at / "manifest.json").unlink(), 3, "must hold manifest.json, which is written last"),
    "another manifest": (lambda at: (at / "manifest.json").write_text("{}"), 3, "is no manifest of shards"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_verify_has_an_exit_code_and_a_file_for_every_damage(call, folder, name) -> None:
    damage, code, message = DAMAGE[name]
    damage(folder / "shards")
    done = call("bpetok", "verify", "shards", cwd=folder)
    assert done.code == code and message in done.err and "Traceback" not in done.err


def test_verify_with_another_tokenizer_is_exit_code_5(call, made, tok) -> None:
    done = call("bpetok", "verify", "shards", "-t", "other.bpetok", cwd=made)
    other = bpetok.load(made / "other.bpetok").fingerprint
    assert done.code == 5 and tok.fingerprint in done.err and other in done.err


# ---- export ----------------------------------------------------------------------------------------------------------


def test_the_formats_of_shards_are_those_of_the_library() -> None:
    assert exchange.SHARD_FORMATS == exporting.FORMATS


@pytest.mark.parametrize("name", exporting.FORMATS)
def test_export_writes_what_the_library_writes(call, folder, name) -> None:
    expected = exporting.export(shards.open(folder / "shards"), folder / "expected", to=name)
    done = call("bpetok", "export", "shards", "--to", name, "-o", "out", cwd=folder)
    assert done.code == 0 and done.err.startswith(f"out: {name}, ") and done.out == b"", done.err
    for path in expected:
        assert (folder / "out" / path.relative_to(folder / "expected")).read_bytes() == path.read_bytes()
    again = call("bpetok", "export", "shards", "--to", name, "-o", "out", cwd=folder)
    assert again.code == 3 and "must not be there yet, but is\nhint: " in again.err
    about = json.loads(call("bpetok", "export", "shards", "--to", name, "-o", "new", "--json", cwd=folder).out)
    assert [folder / "expected" / file for file in about["files"]] == list(expected)
    assert about["ids"] == sum(map(len, shards.open(folder / "shards").splits.values()))


def test_export_for_nanogpt_refuses_uint32_and_tells_of_large_vocabularies(call, tmp_path) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    for name, highest in (("large", 60_000), ("wide", 70_000)):
        tok = bpetok.Tokenizer(bpetok.Vocab(ranks, {"<|endoftext|>": highest}))
        shards.write(TEXTS, tok, tmp_path / name)
    done = call("bpetok", "export", "large", "--to", "nanogpt", "-o", "nano", cwd=tmp_path)
    assert done.code == 0 and done.err.endswith("nanoGPT's train.py must have a vocab_size of 60,001\n")
    assert np.fromfile(tmp_path / "nano" / "train.bin", "<u2")[0] == 60_000
    done = call("bpetok", "export", "wide", "--to", "nanogpt", "-o", "out", cwd=tmp_path)
    assert done.code == 5 and "must hold uint16, got uint32" in done.err and "\nhint: npy, datatrove" in done.err
