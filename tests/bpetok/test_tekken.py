"""tekken.json: special tokens first, bytes in order, and the ids that mistral-common gives."""

import base64
import json

import pytest

import bpetok
from bpetok import Vocab, formats
from bpetok.formats import probe, tekken

TEXT = "\n".join(probe.TEXTS)


@pytest.fixture(scope="module")
def tok():
    return bpetok.train(TEXT, 700, pattern="tekken", special_tokens=["<unk>", "<s>", "</s>"])


@pytest.fixture
def written(tmp_path, tok):
    formats.write(tok.vocab, tmp_path / "tekken.json")
    return tmp_path / "tekken.json"


def change(path, how):
    document = json.loads(path.read_bytes())
    how(document)
    path.write_text(json.dumps(document))


def test_special_tokens_come_first_and_the_others_behind_them(written, tok):
    vocab = formats.read(written)
    assert dict(vocab.special_tokens) == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert {token: token_id - 3 for token, token_id in vocab.ranks.items()} == dict(tok.vocab.ranks)
    assert vocab.pattern == tok.vocab.pattern
    moved = [token_id + 3 for token_id in tok.encode_ordinary(TEXT)]
    assert bpetok.load(written).encode_ordinary(TEXT) == moved


def test_the_file_has_what_the_format_asks_for(written, tok):
    document = json.loads(written.read_bytes())
    n = len(tok.vocab)
    assert document["config"] == {
        "pattern": tok.vocab.pattern,
        "num_vocab_tokens": n - 3,
        "default_vocab_size": n,
        "default_num_special_tokens": 3,
        "version": "v7",
    }
    assert document["vocab"][0] == {"rank": 0, "token_bytes": "AA==", "token_str": "\x00"}
    assert document["vocab"][255] == {"rank": 255, "token_bytes": "/w==", "token_str": None}
    assert document["special_tokens"][1] == {"rank": 1, "token_str": "<s>", "is_control": True}


def test_what_was_read_is_written_as_it_was(tmp_path, written):
    (tmp_path / "other").mkdir()
    formats.write(formats.read(written), tmp_path / "other" / "tekken.json")
    assert (tmp_path / "other" / "tekken.json").read_bytes() == written.read_bytes()


def test_mistral_common_gives_the_same_ids(written):
    library = pytest.importorskip("mistral_common.tokens.tokenizers.tekken", reason="mistral-common is not installed")
    theirs = library.Tekkenizer.from_file(written)
    ours = bpetok.load(written)
    assert theirs.n_words == len(ours.vocab)
    assert (theirs.bos_id, theirs.eos_id) == (1, 2)
    for text in probe.texts(ours.vocab):
        assert theirs.encode(text, bos=False, eos=False) == ours.encode_ordinary(text)
    for token_id in range(len(ours.vocab)):
        assert theirs.id_to_byte_piece(token_id, "keep") == ours.vocab[token_id]


def test_the_vocabulary_is_cut_at_its_default_size(written):
    change(written, lambda d: d["config"].update(default_vocab_size=403))
    vocab = formats.read(written)
    assert len(vocab) == 403
    assert max(vocab.ranks.values()) == 402


def test_special_tokens_without_a_name_are_numbered(written):
    change(written, lambda d: d["config"].update(default_num_special_tokens=6, default_vocab_size=306))
    assert dict(formats.read(written).special_tokens) == {
        "<unk>": 0, "<s>": 1, "</s>": 2, "<SPECIAL_3>": 3, "<SPECIAL_4>": 4, "<SPECIAL_5>": 5,
    }  # fmt: skip


def test_an_old_file_may_leave_the_special_tokens_out(written):
    def leave_out(document):
        del document["special_tokens"]
        document["config"].update(version="v3", default_num_special_tokens=1000, default_vocab_size=1300)

    change(written, leave_out)
    vocab = formats.read(written)
    assert (vocab[0], vocab[3], vocab[10], vocab[19], vocab[20]) == (
        b"<unk>", b"[INST]", b"[IMG]", b"[TOOL_CONTENT]", b"<SPECIAL_20>",
    )  # fmt: skip
    assert vocab[1000] == b"\x00"
    change(written, lambda d: d["config"].update(version="v11"))
    with pytest.raises(bpetok.FormatError, match=r"tekken\.json: special_tokens must be an array, got nothing"):
        formats.read(written)


@pytest.mark.parametrize(
    ("vocab", "match"),
    [
        (
            lambda: Vocab({bytes([b]): (b + 255) % 256 for b in range(256)}, pattern="gpt2"),
            r"first 256 tokens must be the bytes 0 to 255 in order, got b'\\x01' first",
        ),
        (lambda: Vocab.from_merges([], pattern=None), "holds one pattern, got none"),
        (lambda: Vocab.from_merges([], pattern=("a|b", "c|d")), "holds one pattern, got"),
        (lambda: Vocab({bytes([b]): b for b in range(256)} | {b"ab": 300}), "without a gap"),
        (lambda: Vocab({bytes([b]): b for b in range(256)}, {"<a>": 256, "<b>": 256}), "an id of its own"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, vocab, match):
    with pytest.raises(bpetok.FormatError, match=match):
        formats.write(vocab(), tmp_path / "tekken.json")
    assert list(tmp_path.iterdir()) == []


def test_the_published_vocabularies_are_refused_for_their_order_of_bytes(tmp_path, encoding):
    with pytest.raises(bpetok.FormatError, match="first 256 tokens must be the bytes 0 to 255 in order") as caught:
        formats.write(encoding("r50k_base").vocab, tmp_path / "tekken.json")
    assert caught.value.hint == "vocabularies in GPT-2's order of bytes have no tekken.json"


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda d: d.pop("config"), "config must be an object, got nothing"),
        (lambda d: d["config"].update(pattern=5), "config.pattern must be a string, got 5"),
        (lambda d: d["config"].update(pattern="("), "does not compile"),
        (lambda d: d["config"].update(default_vocab_size=2), "default_vocab_size must be 3 to"),
        (lambda d: d["config"].update(default_vocab_size=9999), "default_vocab_size must be 3 to"),
        (lambda d: d["config"].update(default_num_special_tokens=1), "default_num_special_tokens must be at least 3"),
        (lambda d: d["config"].update(default_num_special_tokens=10**9), "default_num_special_tokens must be a number"),
        (lambda d: d["config"].update(default_num_special_tokens=True), "must be a whole number, got True"),
        (lambda d: d["vocab"][0].update(rank=1), r"vocab\[0\].rank must be 0, got 1"),
        (lambda d: d["vocab"][7].update(token_bytes="AA=="), r"vocab\[7\] must be the byte 7, got b'\\x00'"),
        (lambda d: d["vocab"][300].update(token_bytes="YQ=="), r"vocab\[300\] must stand once, got b'a' again"),
        (lambda d: d["vocab"][300].update(token_bytes="YR=="), r"vocab\[300\].token_bytes must be base64 as RFC 4648"),
        (lambda d: d["vocab"][300].update(token_bytes=""), "a token must not be empty"),
        (lambda d: d["vocab"].__setitem__(9, "x"), r"vocab\[9\] must be an object, got 'x'"),
        (
            lambda d: d["special_tokens"][1].update(token_str="<unk>"),
            r"special_tokens\[1\] must stand once, got '<unk>'",
        ),
        (lambda d: d["special_tokens"][1].update(rank=2), r"special_tokens\[1\].rank must be 1, got 2"),
        (lambda d: d["special_tokens"][1].update(token_str="a"), "a special token must not also merge, got 'a'"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(written, how, match):
    change(written, how)
    with pytest.raises(bpetok.BpetokError, match=match) as caught:
        formats.read(written)
    assert str(written) in str(caught.value)


def test_a_bare_list_of_tokens_is_not_taken_for_a_tokenizer(tmp_path):
    entries = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)]
    (tmp_path / "tekken.json").write_text(json.dumps(entries))
    with pytest.raises(bpetok.FormatError, match="another known format"):
        formats.read(tmp_path / "tekken.json")
    with pytest.raises(bpetok.FormatError, match="must be a JSON object, got an array"):
        tekken.read(tmp_path / "tekken.json")
