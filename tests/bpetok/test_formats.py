"""Tokenizer files: what is written is read back, what is broken is refused, nothing is guessed."""

import ast
import base64
import hashlib
import json
import random
from pathlib import Path

import pytest

import bpetok
from bpetok import FormatError, Vocab, files, formats
from bpetok.formats import minbpe, native, probe, tiktoken

BYTES = {bytes([byte]): byte for byte in range(256)}
ODD_SPECIALS = {"<|endoftext|>": 300, "ünï 東": 301, 'quo"te\\': 302, "new\nline": 303, " \t ": 999}


@pytest.fixture
def tok():
    return bpetok.train("low lower lowest", 260, pattern="gpt2", special_tokens=["<|endoftext|>", "<s>"])


def rewrite(path, change):
    """Changes a native file's document and gives it the checksum that belongs to it."""
    document = json.loads(path.read_bytes())
    change(document)
    del document["sha256"]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps({"format": document["format"]} | document))


# ---- round trips ----------------------------------------------------------------------------------------------------


def test_native_files_hold_everything(tmp_path, tok):
    tok.save(tmp_path / "my.bpetok")
    again = bpetok.load(tmp_path / "my.bpetok")
    assert again == tok
    for name in ("ranks", "special_tokens", "pattern", "merges", "name", "provenance"):
        assert getattr(again.vocab, name) == getattr(tok.vocab, name), name


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4o", None, r"\w+|[^\w]"])
def test_native_files_hold_odd_vocabularies(tmp_path, pattern):
    vocab = Vocab(BYTES | {b"\xff\x00": 290}, ODD_SPECIALS, pattern, name="ödd", provenance={"from": ["a", 1, None]})
    native.write(vocab, tmp_path / "odd.bpetok")
    again = native.read(tmp_path / "odd.bpetok")
    assert again == vocab
    assert (again.special_tokens, again.pattern, again.merges) == (vocab.special_tokens, vocab.pattern, None)
    assert (again.name, again.provenance) == (vocab.name, vocab.provenance)


def test_native_files_keep_which_of_two_special_tokens_an_id_decodes_to(tmp_path):
    vocab = Vocab(BYTES, {"<z>": 256, "<a>": 256})
    native.write(vocab, tmp_path / "a.bpetok")
    assert native.read(tmp_path / "a.bpetok")[256] == vocab[256] == b"<a>"


def test_a_native_file_is_the_same_bytes_each_time(tmp_path, tok):
    tok.save(tmp_path / "a.bpetok")
    bpetok.load(tmp_path / "a.bpetok").save(tmp_path / "b.bpetok")
    assert (tmp_path / "a.bpetok").read_bytes() == (tmp_path / "b.bpetok").read_bytes()


def test_rank_files_hold_the_ranks_and_nothing_else(tmp_path, tok):
    tok.save(tmp_path / "my.tiktoken")
    again = bpetok.load(tmp_path / "my.tiktoken", pattern="gpt2", special_tokens=tok.vocab.special_tokens)
    assert again == tok
    assert again.vocab.merges is None
    assert bpetok.load(tmp_path / "my.tiktoken", pattern="none", special_tokens={}).vocab.pattern is None


def test_rank_files_are_read_by_tiktoken(tmp_path, tok):
    import tiktoken.load

    tok.save(tmp_path / "my.tiktoken")
    assert tiktoken.load.load_tiktoken_bpe(str(tmp_path / "my.tiktoken")) == tok.vocab.ranks


def test_minbpe_models_hold_pattern_special_tokens_and_merges(tmp_path, tok):
    tok.save(tmp_path / "my.model")
    again = bpetok.load(tmp_path / "my.model")
    assert again == tok
    assert (again.vocab.merges, again.name) == (tok.vocab.merges, "my")


def test_a_minbpe_model_is_written_as_minbpe_writes_it(tmp_path):
    tok = bpetok.train("abab", 258, pattern=r"\w+", special_tokens=["<s>"])
    tok.save(tmp_path / "my.model")
    assert (tmp_path / "my.model").read_text() == "minbpe v1\n\\w+\n1\n<s> 258\n97 98\n256 256\n"


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base", "o200k_harmony"])
def test_published_vocabularies_survive_the_native_format(tmp_path, encoding, name):
    tok = encoding(name)
    tok.save(tmp_path / "a.bpetok")
    again = bpetok.load(tmp_path / "a.bpetok")
    assert again == tok
    assert {token_id: again.vocab[token_id] for token_id in again.vocab} == {
        token_id: tok.vocab[token_id] for token_id in tok.vocab
    }


def test_a_vocabulary_that_a_format_cannot_hold_is_refused(tmp_path):
    cases = [
        (Vocab(BYTES | {b"ab": 300}), "needs byte b to have id b and the merges to follow in order"),
        (Vocab(BYTES | {b"a": 98, b"b": 97}), "needs byte b to have id b"),
        (Vocab(BYTES, {"<a b>": 256}), "a special token must not hold blanks in this format, got '<a b>'"),
        (Vocab(BYTES, {" <a>": 256}), "a special token must not hold blanks"),
        (Vocab(BYTES, pattern=r"a| "), "a pattern must be one line without blanks around it in this format"),
        (Vocab(BYTES, pattern="a|\nb"), "a pattern must be one line without blanks around it in this format"),
    ]
    for vocab, match in cases:
        with pytest.raises(bpetok.FormatError, match=match):
            formats.write(vocab, tmp_path / "a.model")
    assert list(tmp_path.iterdir()) == []


def test_native_files_hold_the_merge_list_and_how_it_is_used(tmp_path):
    merges = [(97, 98), (256, 99)]
    ranks = BYTES | {b"ab": 256, b"abc": 257}
    for pattern in ("gpt2", (r"\d", r"[a-z]+", r"\s")):
        for ignore_merges in (False, True):
            for normalization in (None, "NFC"):
                manners = {"ignore_merges": ignore_merges, "normalization": normalization}
                vocab = Vocab(ranks, {"<s>": 258}, pattern, merges, semantics="merges", **manners)
                formats.write(vocab, tmp_path / "a.bpetok")
                again = formats.read(tmp_path / "a.bpetok")
                assert again == vocab
                assert (again.semantics, again.ignore_merges, again.normalization) == ("merges", *manners.values())
                assert (again.pattern, again.merges) == (vocab.pattern, vocab.merges)


@pytest.mark.parametrize("name", ["a.tiktoken", "a.model", "tekken.json"])
def test_what_merges_by_a_list_is_refused_where_the_format_merges_by_rank(tmp_path, name):
    merges = [(98, 99), (97, 98), (97, 257)]  # b"abc" of a and bc; by rank, ab merges first
    by_list = Vocab(BYTES | {b"ab": 256, b"bc": 257, b"abc": 258}, {}, "gpt2", merges, semantics="merges")
    with pytest.raises(bpetok.FormatError, match=f"{name}: .* merges by rank, which must give the same ids, got 2 tok"):
        formats.write(by_list, tmp_path / name)
    with pytest.raises(bpetok.FormatError, match=f"{name}: .* normalizes nothing"):
        formats.write(Vocab(BYTES, normalization="NFC"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.tiktoken", "a.model", "tekken.json"])
def test_what_merges_by_a_list_is_written_where_the_ranks_give_the_same_ids(tmp_path, name):
    plain = Vocab.from_merges([(97, 98), (256, 99), (120, 121)], pattern="gpt2")
    for ignore_merges in (False, True):
        by_list = Vocab(plain.ranks, {}, "gpt2", plain.merges, semantics="merges", ignore_merges=ignore_merges)
        formats.write(by_list, tmp_path / name)
        arguments = {"pattern": "gpt2", "special_tokens": {}} if name == "a.tiktoken" else {}
        assert formats.read(tmp_path / name, **arguments) == plain


def test_a_native_file_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(bpetok.FormatError, match="NaN, which is no number of JSON"):
        formats.write(Vocab(BYTES, provenance={"loss": float("nan")}), tmp_path / "a.bpetok")
    assert list(tmp_path.iterdir()) == []


def test_ranks_with_a_gap_are_not_written_where_they_could_not_be_read(tmp_path):
    with pytest.raises(bpetok.FormatError, match=r"each rank up to 300 must be .*, got no 256"):
        formats.write(Vocab(BYTES | {b"ab": 300}), tmp_path / "a.tiktoken")
    formats.write(Vocab(BYTES | {b"ab": 257}, {"<s>": 256}), tmp_path / "a.tiktoken")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tiktoken"]


def test_the_suffix_names_the_format_to_write(tmp_path, tok):
    with pytest.raises(
        bpetok.FormatError, match=r"the suffix must be one of \.bpetok, \.tiktoken, \.model, .*, got 'my\.json'"
    ):
        tok.save(tmp_path / "my.json")


@pytest.mark.parametrize("pattern", ["gpt2", "llama3_ascii"])
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.bpetok", None),
        ("a.tiktoken", None),
        ("plugin", "tiktoken-plugin"),
        ("tokenizer.json", None),
        ("folder", "huggingface"),
        ("a.model", None),
        ("tekken.json", None),
        ("a.gguf", None),
    ],
)
def test_one_vocabulary_goes_through_every_format_with_its_ids(tmp_path, name, format, pattern):
    specials = ["<|endoftext|>", "<|im_start|>"]
    tok = bpetok.train("\n".join(probe.TEXTS), 700, pattern=pattern, special_tokens=specials, name="through_all")
    formats.write(tok.vocab, tmp_path / name, format=format)
    bare = {"pattern": pattern, "special_tokens": tok.vocab.special_tokens}
    again = bpetok.load(tmp_path / name, **(bare if name == "a.tiktoken" else {}))
    shift = {"tekken.json": len(specials)}.get(name, 0)
    for text in probe.texts(tok.vocab):
        assert again.encode_ordinary(text) == [token_id + shift for token_id in tok.encode_ordinary(text)]
        ids = again.encode(text, allowed_special="all")
        assert [again.vocab[token_id] for token_id in ids] == tok.decode_tokens_bytes(
            tok.encode(text, allowed_special="all")
        )
        assert again.decode_bytes(ids) == text.encode()


# ---- recognised by content ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bpetok", ".model"])
def test_a_file_is_recognised_by_its_content_not_by_its_name(tmp_path, tok, suffix):
    tok.save(tmp_path / f"a{suffix}")
    (tmp_path / f"a{suffix}").rename(tmp_path / "renamed.tiktoken")
    assert bpetok.load(str(tmp_path / "renamed.tiktoken")) == tok


@pytest.mark.parametrize("arguments", [{}, {"pattern": "gpt2"}, {"special_tokens": {}}])
def test_a_rank_file_alone_is_refused_with_a_hint(tmp_path, tok, arguments):
    tok.save(tmp_path / "a.tiktoken")
    with pytest.raises(
        bpetok.FormatError, match="neither the split pattern nor the special tokens; both must be given"
    ) as caught:
        bpetok.load(tmp_path / "a.tiktoken", **arguments)
    assert "pattern=" in caught.value.hint
    assert "special_tokens=" in caught.value.hint


def test_a_published_rank_file_is_known_by_its_sha256(tmp_path, encoding, vocabulary_folder):
    tok = encoding("cl100k_base")
    source = vocabulary_folder / bpetok.encodings.ENCODINGS["cl100k_base"].file.tiktoken_name
    (tmp_path / "renamed.bin").write_bytes(source.read_bytes())
    assert bpetok.load(tmp_path / "renamed.bin") == tok
    (tmp_path / "altered.bin").write_bytes(source.read_bytes() + b"\n")
    with pytest.raises(bpetok.FormatError, match="both must be given"):
        bpetok.load(tmp_path / "altered.bin")


@pytest.mark.parametrize("suffix", [".bpetok", ".model"])
def test_pattern_and_special_tokens_are_refused_where_the_file_has_its_own(tmp_path, tok, suffix):
    tok.save(tmp_path / f"a{suffix}")
    for arguments in ({"pattern": "gpt2"}, {"special_tokens": {}}):
        with pytest.raises(bpetok.FormatError, match="must not be given for a file that has its own"):
            bpetok.load(tmp_path / f"a{suffix}", **arguments)


@pytest.mark.parametrize(
    "contents",
    [b"", b"\n", b"hello world", b"\x80\x04\x95.", b"PK\x03\x04", b'{"format": "other"}', b"GGU", bytes(100)],
)
def test_any_other_file_is_refused(tmp_path, contents):
    (tmp_path / "a.bpetok").write_bytes(contents)
    with pytest.raises(
        bpetok.FormatError, match=r"must be a \.bpetok file, tiktoken ranks or another known format, got"
    ):
        bpetok.load(tmp_path / "a.bpetok")


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.bpetok"):
        bpetok.load(tmp_path / "none.bpetok")


# ---- broken native files --------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_native_file_never_gives_another_vocabulary(tmp_path, tok):
    tok.save(tmp_path / "a.bpetok")
    good = (tmp_path / "a.bpetok").read_bytes()
    draw = random.Random(5)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        (tmp_path / "b.bpetok").write_bytes(bad)
        try:
            assert bpetok.load(tmp_path / "b.bpetok") == tok  # as by another spelling of the same JSON string
        except bpetok.BpetokError:
            refused += 1
    assert refused > 290


def test_a_native_file_that_was_altered_is_refused(tmp_path, tok):
    tok.save(tmp_path / "a.bpetok")
    text = (tmp_path / "a.bpetok").read_text()
    (tmp_path / "a.bpetok").write_text(text.replace('"name": "bpetok"', '"name": "other"'))
    with pytest.raises(
        bpetok.CorruptionError, match=r"a\.bpetok: sha256 must be [0-9a-f]{64}, got [0-9a-f]{64}"
    ) as caught:
        bpetok.load(tmp_path / "a.bpetok")
    assert caught.value.hint == "the file was altered"


def test_a_cut_native_file_is_refused(tmp_path, tok):
    tok.save(tmp_path / "a.bpetok")
    good = (tmp_path / "a.bpetok").read_bytes()
    for length in range(20, len(good) - 1, 97):
        (tmp_path / "a.bpetok").write_bytes(good[:length])
        with pytest.raises(bpetok.FormatError, match="must be a"):
            bpetok.load(tmp_path / "a.bpetok")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(version=2), "version must be 1, got 2"),
        (lambda d: d.pop("version"), "version must be 1, got None"),
        (lambda d: d.update(merges=5), "merges must be an array or null, got 5"),
        (lambda d: d.update(tokens=None), "tokens must be an array, got None"),
        (lambda d: d.pop("tokens"), "tokens must be an array, got None"),
        (lambda d: d.pop("name"), "name must be a string, got None"),
        (lambda d: d.update(pattern=5), "pattern must be a string or an array or null, got 5"),
        (lambda d: d.update(special_tokens=[]), "special_tokens must be an object"),
        (lambda d: d.update(provenance="x"), "provenance must be an object"),
        (lambda d: d.update(pattern=["gpt2"]), "pattern must be a string, null or an array of several strings"),
        (lambda d: d.update(pattern=["a", 5]), "pattern must be a string, null or an array of several strings"),
        (lambda d: d.update(pattern=["a|b", "("]), "does not compile"),
        (lambda d: d.update(semantics="other"), "semantics must be 'rank' or 'merges', got 'other'"),
        (lambda d: d.update(semantics="merges", merges=None), "merges must be given where semantics is 'merges'"),
        (lambda d: d.update(ignore_merges=1), "ignore_merges must be true or false, got 1"),
        (lambda d: d.update(ignore_merges=True), "ignore_merges must be False by rank"),
        (lambda d: d.update(normalization="NFD"), "normalization must be 'NFC' or None, got 'NFD'"),
        (lambda d: d.update(normalization=[]), "normalization must be"),
        (lambda d: d.update(version=True), "version must be 1, got True"),
        (lambda d: d.update(version=1.0), r"version must be 1, got 1\.0"),
        (lambda d: d.update(extra=1), "must hold no keys but those of the format, got 'extra'"),
        (lambda d: d.update(unicode="17.0"), r"unicode must be 16\.0, got 17\.0"),
        (lambda d: d.update(unicode=16), "unicode must be a string or null"),
        (lambda d: d.pop("unicode"), "unicode"),
        (lambda d: d.pop("merges"), "merges"),
        (lambda d: d.pop("pattern"), "pattern"),
        (lambda d: d["tokens"].append("?"), "token"),
        (lambda d: d["tokens"].append("QQ"), "token"),
        (lambda d: d["tokens"].append("!!eHl6!!"), "token"),
        (lambda d: d["tokens"].append(5), "token"),
        (lambda d: d["tokens"].append("AA=="), "token"),
        (lambda d: d["tokens"].append(""), "a token must not be empty"),
        (lambda d: d["merges"].append([97]), "merge"),
        (lambda d: d["merges"].append(97), "merge"),
        (lambda d: d["merges"].append(["a", "b"]), "merge"),
        (lambda d: d["merges"].append([97, 97]), "a merge must make a token"),
        (lambda d: d["special_tokens"].update({"<x>": "300"}), "special"),
        (lambda d: d["special_tokens"].update({"<x>": 300.5}), "special"),
        (lambda d: d["special_tokens"].update({"<x>": None}), "special"),
        (lambda d: d["special_tokens"].update({"<x>": True}), "special|id 1"),
        (lambda d: d["special_tokens"].update({"<x>": 1 << 24}), "an id must be in 0 to 16777214"),
        (lambda d: d.update(pattern="("), "does not compile"),
    ],
)
def test_a_native_file_that_breaks_the_format_is_refused_though_its_checksum_is_right(tmp_path, tok, change, match):
    tok.save(tmp_path / "a.bpetok")
    rewrite(tmp_path / "a.bpetok", change)
    with pytest.raises(bpetok.BpetokError, match=match):
        bpetok.load(tmp_path / "a.bpetok")


@pytest.mark.parametrize("contents", ["{", "[]", '{"format": "bpetok"', '{"format": "bpetok", "a": ' + "[" * 100_000])
def test_a_native_file_that_is_no_json_document_is_refused(tmp_path, contents):
    (tmp_path / "a.bpetok").write_text(contents)
    with pytest.raises(bpetok.FormatError, match=r'must be a JSON (document|object)|must hold "format": "bpetok"'):
        native.read(tmp_path / "a.bpetok")


# ---- broken rank files and models -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (b"YQ== 0\nnonsense\n", r":2: must be base64, a space and a rank, got b'nonsense'"),
        (b"YQ== 0\nYg==  1\n", r":2: must be base64, a space and a rank"),
        (b"YQ== 0\nYg== -1\n", r":2: must be base64, a space and a rank"),
        (b"YQ== 0\nYg== 1.5\n", r":2: must be base64, a space and a rank"),
        (b"YQ== 0\n\nYQ 1\n", r":3: must be base64, a space and a rank, got b'YQ 1'"),
        (b"YQ== 0\nYQ== 1\n", r":2: a token must stand once, got b'a' again"),
        (b"YQ== 0\nYg== 1\nYw== 1\n", r":3: a rank must stand once, got 1 again"),
        (b"YQ== 0\nYh== 1\n", r":2: must be base64 as RFC 4648 spells it, got one that ends in b'h== '"),
        (b"YQ== 0\nYmN= 1\n", r":2: must be base64 as RFC 4648 spells it"),
        (b"YQ== 0\nYg== 1_0\n", r":2: must be base64, a space and a rank"),
        (b"YQ== 0\nYg== 2\n", r"each rank up to 2 must be a token's or a special token's, got no 1"),
        (b"YQ== 0\n", r"a\.tiktoken: vocab: every single byte must be a token"),
    ],
)
def test_a_broken_rank_file_is_refused_with_its_line(tmp_path, lines, match):
    (tmp_path / "a.tiktoken").write_bytes(lines)
    with pytest.raises(bpetok.BpetokError, match=match):
        bpetok.load(tmp_path / "a.tiktoken", pattern="gpt4", special_tokens={})


def test_a_rank_file_may_leave_out_what_special_tokens_have(tmp_path):
    lines = [base64.b64encode(bytes([byte])) + b" %d\n" % (byte + (byte > 9)) for byte in range(256)]
    (tmp_path / "a.tiktoken").write_bytes(b"".join(lines))
    vocab = bpetok.load(tmp_path / "a.tiktoken", pattern="gpt2", special_tokens={"<s>": 10, "<t>": 500}).vocab
    assert (vocab[9], vocab[10], vocab[11], 300 in vocab) == (b"\t", b"<s>", b"\n", False)


def test_a_rank_file_with_windows_line_ends_is_read(tmp_path, tok):
    lines = [base64.b64encode(token) + b" %d" % rank for token, rank in tok.vocab.ranks.items()]
    (tmp_path / "a.tiktoken").write_bytes(b"\r\n".join(lines))
    assert tiktoken.read(tmp_path / "a.tiktoken", pattern="gpt2", special_tokens={}).ranks == tok.vocab.ranks


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("minbpe v2\n\n0\n", r":1: must be 'minbpe v1', got 'minbpe v2'"),
        ("minbpe v1\n", r":1: must be 'minbpe v1'"),
        ("minbpe v1\n\nmany\n97 98\n", ":3: must be the number of special tokens, got 'many'"),
        ("minbpe v1\n\n1\n<s>\n97 98\n", ":4: must be a special token and its id, got '<s>'"),
        ("minbpe v1\n\n1\n<s> x\n97 98\n", ":4: must be a special token and its id, got '<s> x'"),
        ("minbpe v1\n\n2\n<s> 300\n<s> 301\n", ":5: a special token must stand once, got '<s>' again"),
        ("minbpe v1\n\n0\n97 98 99\n", ":4: a merge must join two ids of earlier tokens, got '97 98 99'"),
        ("minbpe v1\n\n0\n97 b\n", ":4: a merge must join two ids of earlier tokens"),
        ("minbpe v1\n\n0\n97 300\n", ":4: a merge must join two ids of earlier tokens"),
        ("minbpe v1\n\n0\n-1 97\n", ":4: a merge must join two ids of earlier tokens"),
        ("minbpe v1\n\n0\n1_0 97\n", ":4: a merge must join two ids of earlier tokens"),
        ("minbpe v1\n\n0\n" + "".join(f"{i} {i}\n" for i in (97, *range(256, 300))), ":20: must not make a token or t"),
        ("minbpe v1\n\n0\n97 98\n97 98\n", "two merges must not make the same token"),
        ("minbpe v1\n\n5\n<s> 300\n", ":3: must be the number of special tokens that follow, got '5'"),
        ("minbpe v1\n\n-1\n97 98\n", ":3: must be the number of special tokens, got '-1'"),
        ("minbpe v1\na\rb\n0\n97 98\n", ":2: must not hold a carriage return"),
        ("minbpe v1\n(\n0\n97 98\n", "does not compile"),
    ],
)
def test_a_broken_minbpe_model_is_refused(tmp_path, text, match):
    (tmp_path / "a.model").write_bytes(text.encode())
    with pytest.raises(bpetok.BpetokError, match=match):
        minbpe.read(tmp_path / "a.model")


def test_a_minbpe_model_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.model").write_bytes(b"minbpe v1\n\n1\n\xff 300\n")
    with pytest.raises(bpetok.FormatError, match="must be UTF-8 text"):
        bpetok.load(tmp_path / "a.model")


# ---- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["replace", "fsync", "write"])
@pytest.mark.parametrize("suffix", [".bpetok", ".tiktoken", ".model"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, tok, monkeypatch, suffix, broken):
    path = tmp_path / f"a{suffix}"
    tok.save(path)
    old = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, broken, fail)
    if broken == "write":
        monkeypatch.setattr(Path, "write_bytes", fail)
    other = bpetok.train("quite another text", 260, pattern="gpt2")
    with pytest.raises(OSError, match="No space left"):
        other.save(path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_no_source_file_of_the_package_knows_pickle():
    folder = Path(bpetok.__file__).parent
    imported = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    assert "json" in imported
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def test_paths_may_be_text_and_a_folder_holds_one_tokenizer(small, tmp_path):
    folder = tmp_path / "exported"
    formats.write(small.vocab, str(folder), format="huggingface")
    assert formats.read(str(folder)).ranks == dict(small.vocab.ranks)
    with pytest.raises(FormatError, match=r"the folder must hold no other tokenizer, got tokenizer\.json"):
        formats.write(small.vocab, folder, format="tiktoken-plugin")
    assert formats.read(folder).ranks == dict(small.vocab.ranks)  # as it was
    with pytest.raises(TypeError, match="special_tokens must map each text to its id"):
        formats.read(tmp_path / "x.tiktoken", pattern="gpt2", special_tokens=["<s>"])


@pytest.mark.parametrize(("name", "match"), [("vocab.json", "GPT-2's pair of files"), ("empty", "an empty file")])
def test_files_that_are_no_tokenizer_alone_are_explained(name, match, tmp_path):
    (tmp_path / name).write_text('{"!": 0}' if name == "vocab.json" else "")
    with pytest.raises(FormatError, match=match):
        formats.read(tmp_path / name)
