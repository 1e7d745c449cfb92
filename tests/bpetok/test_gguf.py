"""GGUF: llama.cpp's fields, its closed list of pre-tokenizers, and lengths that lie."""

import struct
import time

import pytest

import bpetok
from bpetok import Vocab, formats
from bpetok.formats import gguf, probe

TEXT = "\n".join(probe.TEXTS)
BYTES = {bytes([byte]): byte for byte in range(256)}
TOKENS = [gguf.spell(bytes([byte])) for byte in range(256)]
SPECIALS = ["<|endoftext|>", "<|im_start|>"]


def written_by(tmp_path, vocab):
    formats.write(vocab, tmp_path / "a.gguf")
    return tmp_path / "a.gguf"


def fields_of(path):
    return gguf._Fields(path).wanted()


# ---- round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["gpt2", "llama3_ascii", "qwen2_ascii", "qwen3_5_ascii", gguf._GPT4O, gguf._TEKKEN])
def test_what_is_written_gives_the_same_ids_when_it_is_read(tmp_path, pattern):
    tok = bpetok.train(TEXT, 600, pattern=pattern, special_tokens=SPECIALS)
    vocab = formats.read(written_by(tmp_path, tok.vocab))
    again = bpetok.Tokenizer(vocab)
    assert (vocab.semantics, vocab.pattern, vocab.merges) == ("merges", tok.vocab.pattern, tok.vocab.merges)
    assert (vocab.ranks, vocab.special_tokens) == (tok.vocab.ranks, tok.vocab.special_tokens)
    for text in probe.texts(vocab):
        assert again.encode(text, allowed_special="all") == tok.encode(text, allowed_special="all")
    formats.write(vocab, tmp_path / "b.gguf")
    assert formats.read(tmp_path / "b.gguf") == vocab


def test_a_published_vocabulary_goes_through_it(tmp_path, encoding):
    tok = encoding("r50k_base")
    again = bpetok.load(written_by(tmp_path, tok.vocab))
    assert again.encode_ordinary(TEXT) == tok.encode_ordinary(TEXT)
    assert again.vocab.special_tokens == tok.vocab.special_tokens


def test_the_fields_are_those_that_llama_cpp_reads(tmp_path):
    vocab = Vocab(BYTES | {b" a": 256, b" a\n": 259}, {"<|endoftext|>": 258, "<s>": 260}, "gpt2")
    fields = fields_of(written_by(tmp_path, vocab))
    assert (fields["model"], fields["pre"]) == ("gpt2", "gpt-2")
    assert fields["tokens"][255:] == ["ÿ", "Ġa", "[PAD257]", "<|endoftext|>", "ĠaĊ", "<s>"]
    assert fields["token_type"][254:] == [1, 1, 1, 5, 3, 1, 3]
    assert fields["merges"] == ["Ġ a", "Ġa Ċ"]
    assert (fields["bos_token_id"], fields["eos_token_id"]) == (260, 258)
    assert (fields["add_bos_token"], fields["add_eos_token"], fields["add_space_prefix"]) == (False, False, False)


def test_the_gguf_package_reads_what_is_written(tmp_path):
    library = pytest.importorskip("gguf", reason="the gguf package is not installed")
    tok = bpetok.train(TEXT, 600, pattern="llama3_ascii", special_tokens=SPECIALS)
    path = written_by(tmp_path, tok.vocab)
    read = library.GGUFReader(path)
    ours = fields_of(path)
    theirs = {key.removeprefix("tokenizer.ggml."): field.contents() for key, field in read.fields.items()}
    for key, value in ours.items():
        assert theirs[key] == value, key
    assert theirs["general.architecture"] == "llama"
    assert list(read.tensors) == []


def test_what_the_gguf_package_writes_is_read(tmp_path):
    library = pytest.importorskip("gguf", reason="the gguf package is not installed")
    tok = bpetok.train(TEXT, 600, pattern="llama3_ascii", special_tokens=SPECIALS)
    fields = fields_of(written_by(tmp_path, tok.vocab))
    writer = library.GGUFWriter(tmp_path / "b.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(fields["tokens"])
    writer.add_token_types(fields["token_type"])
    writer.add_token_merges(fields["merges"])
    writer.add_bos_token_id(600)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert formats.read(tmp_path / "b.gguf") == formats.read(tmp_path / "a.gguf")


# ---- the closed list ------------------------------------------------------------------------------------------------


def test_whole_pretokens_decide_which_name_of_one_pattern_is_written(tmp_path):
    plain = Vocab.from_merges([(97, 98)], pattern="llama3_ascii")
    for whole, pre in ((True, "llama-bpe"), (False, "dbrx")):
        vocab = Vocab(plain.ranks, {}, plain.pattern, plain.merges, semantics="merges", ignore_merges=whole)
        path = written_by(tmp_path, vocab)
        assert fields_of(path)["pre"] == pre
        assert formats.read(path) == vocab


@pytest.mark.parametrize(
    "pattern", ["gpt4", "gpt4o", "llama3", "qwen2", "qwen3_5", "tekken", "nanochat", "gpt4o_ascii", None, r"\w+|\W"]
)
def test_a_pattern_that_no_pre_tokenizer_is_is_refused_by_name(tmp_path, pattern):
    vocab = Vocab(BYTES, pattern=pattern)
    with pytest.raises(bpetok.FormatError, match="no GGUF pre-tokenizer is this function: ") as caught:
        written_by(tmp_path, vocab)
    assert str(vocab.split) in str(caught.value)
    assert "the patterns with one are gpt2, llama3_ascii, qwen2_ascii, qwen3_5_ascii" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_manner_that_no_pre_tokenizer_has_is_refused(tmp_path):
    plain = Vocab.from_merges([(97, 98)], pattern="gpt2")
    whole = Vocab(plain.ranks, {}, "gpt2", plain.merges, semantics="merges", ignore_merges=True)
    with pytest.raises(bpetok.FormatError, match="is this function: gpt2 with ignore_merges=True"):
        written_by(tmp_path, whole)
    with pytest.raises(bpetok.FormatError, match="GGUF normalizes nothing, got 'NFC'"):
        written_by(tmp_path, Vocab(plain.ranks, {}, "gpt2", normalization="NFC"))


def test_a_list_of_merges_that_the_ranks_contradict_is_refused(tmp_path):
    merges = [(98, 99), (97, 98), (97, 257)]  # b"abc" of a and bc; by rank, ab merges first
    vocab = Vocab(BYTES | {b"ab": 256, b"bc": 257, b"abc": 258}, {}, "gpt2", merges)
    with pytest.raises(bpetok.FormatError, match="must give the same ids, got others of b'abc'"):
        written_by(tmp_path, vocab)
    by_list = Vocab(vocab.ranks, {}, "gpt2", merges, semantics="merges")
    assert formats.read(written_by(tmp_path, by_list)) == by_list


@pytest.mark.parametrize(
    ("specials", "match"),
    [
        ({"<a>": 300, "<b>": 300}, "each special token must have an id of its own in this format"),
        ({"Ġa": 300}, "a special token must not look like another token in this format, got 'Ġa'"),
        ({"[PAD299]": 300}, r"must not look like another token in this format, got '\[PAD299\]'"),
        ({"hello": 300}, "a special token must not be one pretoken, or text becomes it, got 'hello'"),
    ],
)
def test_special_tokens_that_llama_cpp_would_mistake_are_refused(tmp_path, specials, match):
    with pytest.raises(bpetok.FormatError, match=match):
        written_by(tmp_path, Vocab(BYTES | {b" a": 256}, specials, "llama3_ascii"))


# ---- broken files ---------------------------------------------------------------------------------------------------


def text(string):
    return struct.pack("<Q", len(string.encode())) + string.encode()


def strings(values):
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def numbers(values):
    return struct.pack("<IIQ", 9, 5, len(values)) + struct.pack(f"<{len(values)}i", *values)


def field(key, value):
    return text(f"tokenizer.ggml.{key}") + value


def string(value):
    return struct.pack("<I", 8) + text(value)


def a_file(version=3, tensors=0, count=None, **changes):
    values = {
        "model": string("gpt2"),
        "pre": string("gpt-2"),
        "tokens": strings([*TOKENS, "ab", "<s>"]),
        "token_type": numbers([1] * 257 + [3]),
        "merges": strings(["a b"]),
    } | changes
    fields = [field(key, value) for key, value in values.items() if value is not None]
    head = struct.pack("<4sIQQ", b"GGUF", version, tensors, len(fields) if count is None else count)
    return head + b"".join(fields)


def test_the_file_of_these_tests_is_read(tmp_path):
    (tmp_path / "a.gguf").write_bytes(a_file())
    vocab = formats.read(tmp_path / "a.gguf")
    assert (vocab[256], dict(vocab.special_tokens), vocab.merges) == (b"ab", {"<s>": 257}, ((97, 98),))


@pytest.mark.parametrize(
    ("contents", "match"),
    [
        (b"GGUF", "24 bytes must follow byte 0, got 4"),
        (a_file(version=1), "must be a GGUF file of version 2 or 3"),
        (a_file(version=3 << 24), "of a machine that writes the greatest byte first"),
        (a_file(count=1 << 60), "must hold at most 4096 fields, got 1152921504606846976"),
        (a_file(count=9), "8 bytes must follow byte"),
        (a_file()[:-1], "bytes must follow byte"),
        (a_file(model=string("llama")), "model must be 'gpt2', which is byte-level BPE, got 'llama'"),
        (a_file(model=None), "tokenizer.ggml.model must be a string, got nothing"),
        (a_file(pre=None), "tokenizer.ggml.pre must be a string, got nothing"),
        (a_file(pre=string("deepseek-v3")), "tokenizer.ggml.pre must be one of gpt-2, .*, got 'deepseek-v3'"),
        (a_file(pre=string("default")), "pre must be one of"),
        (a_file(tokens=None), "tokens must be an array, got nothing"),
        (a_file(tokens=string("x")), "tokens must be an array, got 'x'"),
        (a_file(tokens=numbers([1] * 258)), r"tokens\[0\] must be a text of the type"),
        (a_file(tokens=strings([*TOKENS, "ab", "ab"])), r"tokens\[257\] must stand once, got 'ab' again"),
        (a_file(tokens=strings([*TOKENS, "a b", "<s>"])), r"tokens\[256\] must be a token in the letters"),
        (a_file(tokens=strings([*TOKENS, "", "<s>"])), r"tokens\[256\] must be a token in the letters"),
        (a_file(tokens=strings([*TOKENS[:-1], "cd", "ab", "<s>"])), r"missing b'\\xff'"),
        (a_file(token_type=numbers([1])), "token_type must be an array of 258 numbers"),
        (a_file(token_type=numbers([1] * 257 + [6])), r"tokens\[257\] must be a text of the type 1, 2, 3, 4 or 5"),
        (a_file(token_type=numbers([1] * 257 + [-1])), r"tokens\[257\] must be a text of the type"),
        (a_file(merges=None), "merges must be an array, got nothing"),
        (a_file(merges=strings(["ab"])), r"merges\[0\] must be two tokens and a blank between, got 'ab'"),
        (a_file(merges=strings(["a b c"])), r"merges\[0\] must be two tokens"),
        (a_file(merges=strings(["a <s>"])), r"merges\[0\] must be two tokens"),
        (a_file(merges=strings(["b a"])), "a merge must make a token"),
        (a_file(merges=strings(["a b", "a b"])), "a merge must stand once"),
        (a_file(merges=struct.pack("<IIQ", 9, 8, 1 << 62)), "bytes must follow byte"),
        (a_file(merges=struct.pack("<IIQQ", 9, 8, 1, 1 << 63)), "bytes must follow byte"),
        (a_file(other=struct.pack("<IIQ", 9, 0, (1 << 64) - 1)), "bytes must follow byte"),
        (a_file(other=struct.pack("<IIQ", 9, 9, 1)), "must be an array of strings or numbers, got 9"),
        (a_file(other=struct.pack("<I", 13)), "must be of a type from 0 to 12, got 13"),
        (a_file(other=struct.pack("<IQ", 8, 2) + b"\xff\xfe"), "must be UTF-8"),
        (a_file(count=6) + field("model", string("gpt2")), "'tokenizer.ggml.model' must stand once"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, contents, match):
    (tmp_path / "a.gguf").write_bytes(contents)
    with pytest.raises(bpetok.BpetokError, match=match) as caught:
        formats.read(tmp_path / "a.gguf")
    assert str(tmp_path / "a.gguf") in str(caught.value)


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path):
    whole = a_file()
    for length in range(4, len(whole), 7):
        (tmp_path / "a.gguf").write_bytes(whole[:length])
        with pytest.raises(bpetok.FormatError, match="must follow byte"):
            formats.read(tmp_path / "a.gguf")


def test_unknown_control_and_user_tokens_are_special_and_unused_ones_are_none(tmp_path):
    tokens = strings([*TOKENS, "<unk>", "<user>", "<gone>"])
    (tmp_path / "a.gguf").write_bytes(
        a_file(tokens=tokens, token_type=numbers([1] * 256 + [2, 4, 5]), merges=strings([]))
    )
    vocab = formats.read(tmp_path / "a.gguf")
    assert (dict(vocab.special_tokens), 258 in vocab) == ({"<unk>": 256, "<user>": 257}, False)


def test_a_models_weights_behind_the_fields_do_not_matter(tmp_path):
    contents = a_file(tensors=2) + bytes(5000)
    (tmp_path / "a.gguf").write_bytes(contents)
    with open(tmp_path / "a.gguf", "r+b") as file:
        file.truncate(3 << 30)
    start = time.monotonic()
    assert formats.read(tmp_path / "a.gguf")[257] == b"<s>"
    assert time.monotonic() - start < 2


def test_the_list_of_names_has_no_name_twice():
    names = [name for _, _, group in gguf._GROUPS for name in group.split()]
    assert sorted(names) == sorted(gguf.PRES)
