"""`bpetok export`, `import` and `verify`, as their users type them."""

import json

import pytest

import bpetok
from bpetok import formats


def test_export_says_what_a_format_keeps_and_drops(call, folder, tok) -> None:
    done = call("bpetok", "export", "my.bpetok", "-o", "my.tiktoken", cwd=folder)
    assert (done.code, done.out) == (0, b"")
    assert done.err == (
        "my.tiktoken: tiktoken, keeps tokens, ids, merging by rank\n"
        "drops pattern, special tokens, merges, provenance: keep the source too\n"
    )
    about = call("bpetok", "export", "my.bpetok", "--to", "bpetok", "-o", "copy", "--json", cwd=folder).json
    assert about["drops"] == [] and "provenance" in about["keeps"]
    assert bpetok.load(folder / "copy") == tok
    assert call("bpetok", "export", "my.bpetok", "-o", "m.model", "-q", cwd=folder).err == ""


def test_export_refuses_before_the_work(call, folder) -> None:
    nowhere = call("bpetok", "export", "my.bpetok", "-o", "gone/my.model", cwd=folder)
    assert nowhere.code == 2 and "gone must be a folder" in nowhere.err
    nameless = call("bpetok", "export", "my.bpetok", "-o", "my", cwd=folder)
    assert nameless.code == 3 and "hint: name the format: " in nameless.err
    assert call("bpetok", "export", "my.bpetok", "--to", "pickle", "-o", "x", cwd=folder).code == 2


def test_ranks_are_imported_with_what_they_do_not_hold(call, folder, tok) -> None:
    tok.save(folder / "my.tiktoken")
    args = ("import", "my.tiktoken", "-o", "back.bpetok")
    bare = call("bpetok", *args, cwd=folder)
    assert bare.code == 3 and "hint: bpetok import my.tiktoken --pattern gpt4 --special '<|endoftext|>=" in bare.err
    done = call("bpetok", *args, "--pattern", "gpt4", "--special", "<|endoftext|>=300", "--json", cwd=folder)
    assert done.json["fingerprint"] == tok.fingerprint and done.json["format"] == "tiktoken"
    assert bpetok.load(folder / "back.bpetok") == tok
    plain = call("bpetok", *args, "--pattern", "gpt4", cwd=folder)
    assert plain.err == "back.bpetok: from tiktoken, 300 tokens and 0 special, gpt4, by rank\n"


@pytest.mark.parametrize("special", ["x", "=5", "x=", "x=-1", "x=1_0", "x=٣", "x=999999999"])
def test_a_special_token_is_given_with_its_id(call, folder, special) -> None:
    done = call("bpetok", "import", "corpus.txt", "--special", special, "-o", "x.bpetok", cwd=folder)
    assert done.code == 2 and f"must be TEXT=ID such as '<|endoftext|>=100257', got {special!r}" in done.err


def test_a_file_with_its_own_pattern_takes_no_other(call, folder, tok) -> None:
    tok.save(folder / "my.model")
    assert call("bpetok", "import", "my.model", "-o", "x.bpetok", cwd=folder).code == 0
    assert bpetok.load(folder / "x.bpetok") == tok
    done = call("bpetok", "import", "my.model", "--pattern", "gpt2", "-o", "x.bpetok", cwd=folder)
    assert done.code == 3 and "must not be given for a file that has its own" in done.err


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_verify_passes_a_whole_tokenizer_and_an_export_like_its_source(call, folder, tok) -> None:
    done = call("bpetok", "verify", "my.bpetok", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert (
        done.text == f"my.bpetok: keeps the rules, and has the ids of the definition; fingerprint {tok.fingerprint}\n"
    )
    tok.save(folder / "my.model")
    about = call("bpetok", "verify", "my.model", "--against", "my.bpetok", "--text", "text.txt", "--json", cwd=folder)
    assert about.code == 0 and about.json["same_fingerprint"] is True and about.json["mismatch"] is None


def test_verify_names_the_first_difference_with_exit_code_4(call, folder, tok) -> None:
    text = (folder / "corpus.txt").read_bytes()
    other = bpetok.train(text[:3000] + b"ZQZQZQZQ", 300, special_tokens=["<|endoftext|>"], name="other")
    other.save(folder / "other.bpetok")
    done = call("bpetok", "verify", "other.bpetok", "--against", "my.bpetok", "--text", "corpus.txt", cwd=folder)
    assert done.code == 4
    assert done.text.startswith("other.bpetok: has not the ids of my: the probe, byte ")
    assert "\n  got  " in done.text and "\n  expected  " in done.text
    about = call("bpetok", "verify", "other.bpetok", "--against", "my.bpetok", "--json", cwd=folder)
    assert about.code == 4 and about.json["mismatch"]["where"] == "the probe"
    extra = bpetok.extend(tok, text, 300, special_tokens=["<|more|>"])
    extra.save(folder / "extra.bpetok")
    about = call("bpetok", "verify", "extra.bpetok", "--against", "my.bpetok", "--json", cwd=folder)
    assert about.code == 4
    assert about.json["mismatch"] == {"where": "special tokens", "byte": 0, "got": ["<|more|>=301"], "expected": []}


def test_verify_finds_an_altered_file(call, folder) -> None:
    document = json.loads((folder / "my.bpetok").read_text())
    document["tokens"][65], document["tokens"][66] = document["tokens"][66], document["tokens"][65]
    (folder / "my.bpetok").write_text(json.dumps(document))
    done = call("bpetok", "verify", "my.bpetok", cwd=folder)
    assert done.code == 4 and "sha256 must be" in done.err
    assert call("bpetok", "verify", "corpus.txt", cwd=folder).code == 3
    assert call("bpetok", "verify", "corpus.txt", "--renumbered", cwd=folder).code == 2


@pytest.mark.parametrize("name", [name for name in formats.NAMES if name != "tiktoken"])
def test_an_export_in_every_format_gives_the_ids_of_its_source(call, folder, name: str) -> None:
    source = bpetok.train(folder / "corpus.txt", 400, pattern="gpt2", special_tokens=["<|endoftext|>"], name="source")
    source.save(folder / "source.bpetok")
    done = call("bpetok", "export", "source.bpetok", "--to", name, "-o", "exported", "--json", cwd=folder)
    assert done.code == 0, done.err
    assert {"tokens", "pattern", "special tokens"} <= set(done.json["keeps"])
    args = ["exported", "--against", "source.bpetok", "--text", "corpus.txt"]
    plain = call("bpetok", "verify", *args, cwd=folder)
    assert plain.code == (4 if name == "tekken" else 0), plain.text
    assert call("bpetok", "verify", *args, "--renumbered", cwd=folder).code == 0
