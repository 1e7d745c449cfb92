"""A `tokenizer.json` gives the ids that `tokenizers` gives, in both directions, or is refused by the place in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpetok
from bpetok import FormatError, Vocab, VocabError, formats, patterns
from bpetok.formats import huggingface, native, probe

tokenizers = pytest.importorskip("tokenizers")

TEXT = "\n".join(probe.TEXTS)
BYTES = {bytes([byte]): byte for byte in range(256)}
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
]


def sequence(*expressions, use_regex=False, digits=None):
    """A pre-tokenizer of `tokenizers`."""
    kinds = tokenizers.pre_tokenizers
    steps = [kinds.Split(tokenizers.Regex(expression), "isolated") for expression in expressions]
    steps += [] if digits is None else [kinds.Digits(individual_digits=digits)]
    return kinds.Sequence([*steps, kinds.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


def trained(pre_tokenizer, *, size=600, nfc=False, ignore_merges=False, specials=(), added=()):
    """A tokenizer that `tokenizers` itself has trained."""
    tok = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignore_merges))
    tok.normalizer = tokenizers.normalizers.NFC() if nfc else None
    tok.pre_tokenizer = pre_tokenizer
    tok.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=list(specials), show_progress=False
    )
    tok.train_from_iterator([TEXT], trainer)
    tok.add_tokens([*added])
    return tok


def token(content, **flags):
    return tokenizers.AddedToken(content, **({"normalized": False, "special": False} | flags))


def saved(tok, folder):
    path = folder / "tokenizer.json"
    tok.save(str(path))
    return path


def ids_in(library):
    return lambda text: library.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small `tokenizer.json` as a document, to be changed."""
    tok = trained(sequence(patterns.SPELLINGS["llama3"]), size=300, specials=["<|endoftext|>"], added=[token("<tool>")])
    return saved(tok, tmp_path_factory.mktemp("small")).read_text()


@pytest.fixture(scope="module")
def mine():
    """A vocabulary that bpetok has trained, with special tokens."""
    return bpetok.train(TEXT, 700, pattern="gpt4o", special_tokens=["<|endoftext|>", "<|im_start|>", "ünï 東"]).vocab


# ---- reading: the ids of `tokenizers` --------------------------------------------------------------------------------


@pytest.fixture
def gpt2_file(data):
    path = data / "hf" / "gpt2_tokenizer.json"
    if not path.is_file():
        pytest.skip(f"needs test data: {path} is not there; BPETOK_DATA names the folder")
    return path


def test_gpt2_has_the_ids_of_tokenizers_on_every_file_of_the_corpus(gpt2_file, corpus):
    vocab = formats.read(gpt2_file)
    assert (len(vocab), vocab.split.name, vocab.semantics) == (50257, "gpt2", "merges")
    assert dict(vocab.special_tokens) == {"<|endoftext|>": 50256}
    tok, encode = bpetok.Tokenizer(vocab), ids_in(tokenizers.Tokenizer.from_file(str(gpt2_file)))
    for name, text in corpus.items():
        assert tok.encode(text[:30_000], allowed_special="all") == encode(text[:30_000]), name
    probe.prove(vocab, encode, "gpt2", allowed_special="all")


def test_gpt2_is_the_published_vocabulary(gpt2_file, encoding):
    vocab, published = formats.read(gpt2_file), encoding("gpt2").vocab
    assert (vocab.ranks, vocab.special_tokens) == (dict(published.ranks), published.special_tokens)
    assert list(vocab.merges) == published.recover_merges()


SETTINGS = {
    "gpt2": lambda: trained(tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), specials=["<|endoftext|>"]),
    "gpt2 as a sequence": lambda: trained(sequence(use_regex=True)),
    "no merges": lambda: trained(sequence(patterns.SPELLINGS["gpt4o"]), size=256),
    "no split": lambda: trained(sequence()),
    "llama3": lambda: trained(sequence(patterns.SPELLINGS["llama3"]), size=1500),
    "llama3 whole": lambda: trained(sequence(patterns.SPELLINGS["llama3"]), size=1500, ignore_merges=True),
    "gpt4o": lambda: trained(sequence(patterns.SPELLINGS["gpt4o"]), size=900, specials=["<a>", "<b>"]),
    "tekken": lambda: trained(sequence(patterns.SPELLINGS["tekken"])),
    "qwen": lambda: trained(
        sequence(patterns.SPELLINGS["qwen2"]),
        nfc=True,
        added=[token("<|im_start|>", special=True), token("<tool_call>"), token("<|im_start|>x")],
    ),
    "qwen3.5": lambda: trained(sequence(patterns.SPELLINGS["qwen3_5"]), nfc=True),
    "deepseek": lambda: trained(sequence(*DEEPSEEK), size=900, added=[token("<｜User｜>"), token("<｜▁pad▁｜>")]),
    "deepseek coder": lambda: trained(
        sequence(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", digits=True)
    ),
    "smollm": lambda: trained(sequence(use_regex=True, digits=True)),
    "digits in runs": lambda: trained(sequence(use_regex=True, digits=False)),
    "blanks added": lambda: trained(
        sequence(use_regex=True), nfc=True, size=256, added=[token(" " * n, normalized=True) for n in range(24, 1, -1)]
    ),
    "added words": lambda: trained(
        sequence(use_regex=True), size=900, added=[token("the"), token("Hello, w"), token("ello"), token("q\nr")]
    ),
    "added and late": lambda: trained(
        sequence(use_regex=True), nfc=True, added=[token("|||IP|||", normalized=True), token("<x>", special=True)]
    ),
    "a string": lambda: trained(
        tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split("a.b", "isolated"),
                tokenizers.pre_tokenizers.Split(tokenizers.Regex(patterns.SPELLINGS["qwen2"]), "removed", invert=True),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_tokenizers_has_trained_has_its_ids(name, tmp_path, tiny_corpus):
    library = SETTINGS[name]()
    vocab = formats.read(saved(library, tmp_path))
    tok, encode = bpetok.Tokenizer(vocab), ids_in(library)
    probe.prove(vocab, encode, name, allowed_special="all")
    for text in tiny_corpus:
        assert tok.encode(text, allowed_special="all") == encode(text)
    special = {added.content: i for i, added in library.get_added_tokens_decoder().items()}
    assert vocab.special_tokens == special
    for text in (TEXT, *tiny_corpus[:3]):
        ids = encode(text)
        assert tok.decode(ids) == library.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_was_read_is_written_as_it_was(name, tmp_path):
    library = SETTINGS[name]()
    vocab = formats.read(saved(library, tmp_path))
    formats.write(vocab, tmp_path / "again", format="huggingface")
    again = formats.read(tmp_path / "again")
    assert again == vocab
    assert again.provenance.get("huggingface") == vocab.provenance.get("huggingface")
    written = json.loads((tmp_path / "again" / "tokenizer.json").read_text())
    source = json.loads((tmp_path / "tokenizer.json").read_text())
    assert written["model"]["merges"] == source["model"]["merges"] or "added words" in name
    assert written["added_tokens"] == sorted(source["added_tokens"], key=lambda one: one["id"])
    native.write(vocab, tmp_path / "a.bpetok")
    assert native.read(tmp_path / "a.bpetok") == vocab


@pytest.fixture(scope="module")
def tiny_corpus(texts_at_hand):
    """The beginnings of real texts; the probe alone where there are none."""
    return [text[:4000] for text in texts_at_hand] or [TEXT, TEXT[::-1]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tokenizer with NFC, splits and added tokens in both libraries."""
    added = [token("<|a|>"), token("<|a|>b"), token("e\u0301x"), token("@ @", normalized=True)]
    library = trained(sequence(*DEEPSEEK), nfc=True, size=900, added=added)
    return bpetok.Tokenizer(formats.read(saved(library, tmp_path_factory.mktemp("pair")))), ids_in(library)


PARTS = st.sampled_from(
    [
        "<|a|>",
        "<|a|>b",
        "e\u0301x",
        "é",
        "e",
        "\u0301",
        "x",
        "  ",
        " ",
        "\n",
        "123",
        "中文",
        "K",
        "<",
        "|>",
        "\u0338",
        "!a",
    ]
)


@given(text=st.lists(st.one_of(PARTS, st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), max_size=4))))
@settings(max_examples=300)
def test_any_text_has_the_ids_of_tokenizers(pair, text):
    tok, encode = pair
    assert tok.encode("".join(text), allowed_special="all") == encode("".join(text))


def test_all_splits_as_merges_and_whole_tokens_are_the_ids_of_the_ranks(tmp_path):
    """What `transformers` makes of tiktoken's ranks for Llama 3."""
    ranked = bpetok.train(TEXT, 700, pattern="llama3")
    document = json.loads(json.dumps(huggingface._document(ranked.vocab, tmp_path / "x.json")))
    by_text = document["model"]["vocab"]
    splits = [
        (by_text[text], [text[:i], text[i:]])
        for text in by_text
        for i in range(1, len(text))
        if text[:i] in by_text and text[i:] in by_text
    ]
    document["model"] |= {"merges": [parts for _, parts in sorted(splits)], "ignore_merges": True}
    (tmp_path / "x.json").write_text(json.dumps(document))
    vocab = formats.read(tmp_path / "x.json")
    assert vocab.ignore_merges
    assert len(vocab.merges) > len(ranked.vocab.merges)
    probe.prove(vocab, ids_in(tokenizers.Tokenizer.from_file(str(tmp_path / "x.json"))), "x")
    probe.prove(vocab, ranked.encode_ordinary, "x")


def test_merges_as_lines_are_the_merges_as_pairs(small, tmp_path):
    document = json.loads(small)
    (tmp_path / "a.json").write_text(json.dumps(document))
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    (tmp_path / "b.json").write_text(json.dumps(document))
    assert formats.read(tmp_path / "a.json") == formats.read(tmp_path / "b.json")


def test_an_added_token_of_the_vocab_has_its_id_and_never_merges(small, tmp_path):
    document = json.loads(small)
    left, right = next(merge for merge in document["model"]["merges"] if "".join(merge).isascii())
    document["added_tokens"].append(document["added_tokens"][1] | {"content": left + right})
    document["added_tokens"][2]["id"] = document["model"]["vocab"][left + right]
    (tmp_path / "a.json").write_text(json.dumps(document))
    vocab = formats.read(tmp_path / "a.json")
    assert vocab.special_tokens[left + right] == document["model"]["vocab"][left + right]
    assert (left + right).encode() not in vocab.ranks
    probe.prove(vocab, ids_in(tokenizers.Tokenizer.from_file(str(tmp_path / "a.json"))), "a", allowed_special="all")


def test_template_and_flags_are_kept_in_the_provenance_and_written_back(tmp_path, small):
    document = json.loads(small)
    piece = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [piece, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    document["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    vocab = formats.read(tmp_path / "a.json")
    formats.write(vocab, tmp_path / "b", format="huggingface")
    written = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    assert written["post_processor"] == document["post_processor"]
    assert written["added_tokens"] == document["added_tokens"]
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "b" / "tokenizer.json"))
    assert library.encode("hi").ids == [0, *bpetok.Tokenizer(vocab).encode("hi")]

    moved = Vocab(vocab.ranks, {"<|endoftext|>": 900}, vocab.pattern, vocab.merges, "x", vocab.provenance, "merges")
    with pytest.raises(FormatError, match="post_processor must name special tokens by their ids"):
        formats.write(moved, tmp_path / "c", format="huggingface")
    assert not (tmp_path / "c").exists()


# ---- reading: what is refused ----------------------------------------------------------------------------------------


def at(document, path, value):
    """Puts a value at a path of keys."""
    *folders, last = path
    for key in folders:
        document = document[key]
    if value is DELETED:
        del document[last]
    else:
        document[last] = value


DELETED = object()
PRE, ADDED = ("pre_tokenizer", "pretokenizers"), ("added_tokens", 1)
SPLIT = {"type": "Split", "pattern": {"Regex": r"\s|\S"}, "behavior": "Isolated", "invert": False}
# fmt: off
REFUSED = [
    (("version",), "2.0", r"version must be '1.0', got '2.0'"),
    (("version",), DELETED, r"version must be '1.0', got None"),
    (("truncation",), {"max_length": 5}, r"truncation must be null"), (("padding",), {"pad_id": 0}, r"padding must be"),
    (("surprise",), 1, r"surprise must not be there"),
    (("normalizer",), {"type": "NFKC"}, r"normalizer\.type must be 'NFC', got 'NFKC'"),
    (("normalizer",), {"type": "Lowercase"}, r"normalizer\.type must be 'NFC', got 'Lowercase'"),
    (("normalizer",), "NFD", r"normalizer\.type must be 'NFC', got 'NFD'"),
    (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}, r"normalizers must"),
    (("decoder",), {"type": "WordPiece"}, r"decoder must be of the type .ByteLevel., got"),
    (("decoder",), {"type": "Metaspace"}, r"decoder must be of the type 'ByteLevel', got \{'type': 'Metaspace'"),
    (("post_processor",), {"type": "BertProcessing"}, r"post_processor\.type must be one of ByteLevel, Template"),
    (("post_processor",), {"type": "Sequence", "processors": [{"type": "Sequence"}]}, r"processors\[0\]\.type must be"),
    (("post_processor",), {"type": "ByteLevel", "x": [[[[[[[[1]]]]]]]]}, r"post_processor must have at most 8 levels"),
    (("model",), [], r"model must be an object, got \[\]"), (("model",), DELETED, r"model must be an object, got no"),
    (("model", "type"), "Unigram", r"model\.type must be 'BPE', got 'Unigram'"),
    (("model", "type"), "WordPiece", r"model\.type must be 'BPE', got 'WordPiece'"),
    (("model", "dropout"), 0.1, r"model\.dropout must be null or 0.0, got 0.1"),
    (("model", "dropout"), False, r"model\.dropout must be null or 0.0, got False"),
    (("model", "unk_token"), "<unk>", r"model\.unk_token must be null or "),
    (("model", "continuing_subword_prefix"), "##", r"model\.continuing_subword_prefix must be null or \"\", got '##'"),
    (("model", "end_of_word_suffix"), "</w>", r"model\.end_of_word_suffix must be null or \"\", got '</w>'"),
    (("model", "fuse_unk"), True, r"model\.fuse_unk must be null or false, got True"),
    (("model", "byte_fallback"), True, r"model\.byte_fallback must be null or false, got True"),
    (("model", "ignore_merges"), 1, r"model\.ignore_merges must be true or false, got 1"),
    (("model", "later"), True, r"model\.later must not be there"),
    (("model", "vocab"), {}, r"model\.vocab must hold each single byte, got none for b'\\x00'"),
    (("model", "vocab"), [], r"model\.vocab must be an object, got \[\]"),
    (("model", "vocab", "Ġ"), DELETED, r"model\.vocab must hold each single byte, got none for b' '|must be two"),
    (("model", "vocab", "x y"), 700, r"model\.vocab must hold tokens in the letters of byte-level BPE, got 'x y'"),
    (("model", "vocab", ""), 700, r"model\.vocab must hold tokens in the letters of byte-level BPE, got ''"),
    (("model", "vocab", "▁a"), 700, r"model\.vocab must hold tokens in the letters of byte-level BPE, got '▁a'"),
    (("model", "vocab", "qqq"), 0, r"model\.vocab must give each token an id of its own, got 0 for \["),
    (("model", "vocab", "qqq"), -1, r"model\.vocab\['qqq'\] must be an id in 0 to 16777214, got -1"),
    (("model", "vocab", "qqq"), 1 << 32, r"model\.vocab\['qqq'\] must be an id in 0 to 16777214, got 4294967296"),
    (("model", "vocab", "qqq"), 10**4000, r"f\.json.*: must be a JSON document|model\.vocab\['qqq'\] must be an id"),
    (("model", "vocab", "qqq"), 1.0, r"model\.vocab\['qqq'\] must be an id in 0 to 16777214, got 1.0"),
    (("model", "vocab", "qqq"), True, r"model\.vocab\['qqq'\] must be an id in 0 to 16777214, got True"),
    (("model", "merges"), DELETED, r"model\.merges must be an array, got nothing"),
    (("model", "merges"), [["q", "zz"]], r"model\.merges\[0\] must be two tokens of the vocab, got \['q', 'zz'\]"),
    (("model", "merges"), [["q", "z"]], r"model\.merges\[0\] must make a token of the vocab, got \['q', 'z'\]"),
    (("model", "merges"), [["q"]], r"model\.merges\[0\] must be two tokens, as in merges\[0\], got \['q'\]"),
    (("model", "merges"), ["q z z"], r"model\.merges\[0\] must be two tokens, as in merges\[0\], got 'q z z'"),
    (("model", "merges"), [[1, 2]], r"model\.merges\[0\] must be two tokens of the vocab, got \[1, 2\]"),
    (("model", "merges"), [7], r"model\.merges\[0\] must be two tokens, as in merges\[0\], got 7"),
    (("model", "merges"), [["e", "r"], "i n"], r"model\.merges\[1\] must be two tokens, as in merges\[0\], got 'i n'"),
    (("model", "merges"), [["i", "n"], ["e", "r"], ["i", "n"]], r"model\.merges\[2\] must stand once, got \['i'"),
    (("pre_tokenizer",), None, r"pre_tokenizer\.type must be 'ByteLevel', which makes it bytes, got None"),
    (("pre_tokenizer",), {"type": "Whitespace"}, r"pre_tokenizer\.type must be 'ByteLevel', which makes it bytes"),
    (("pre_tokenizer",), {"type": "ByteLevel"}, r"pre_tokenizer\.add_prefix_space must be false, got True"),
    (PRE, [], r"pre_tokenizer\.type must be 'ByteLevel', which makes it bytes, got None"),
    (PRE, [SPLIT], r"pre_tokenizer\.pretokenizers\[0\]\.type must be 'ByteLevel', which makes it bytes, got 'Split'"),
    (PRE, [SPLIT] * 20 + [{"type": "ByteLevel"}], r"pre_tokenizer\.pretokenizers must be at most 16, got 21"),
    ((*PRE, 0, "type"), "Metaspace", r"pretokenizers\[0\]\.type must be 'Split' or 'Digits', got 'Metaspace'"),
    ((*PRE, 0), {"type": "ByteLevel"}, r"pretokenizers\[0\]\.type must be 'Split' or 'Digits', got 'ByteLevel'"),
    ((*PRE, 0), {"type": "Digits"}, r"pretokenizers\[0\]\.individual_digits must be true or false, got nothing"),
    ((*PRE, 0, "behavior"), "Removed", r"pretokenizers\[0\]\.behavior must be 'Isolated', got 'Removed' with invert"),
    ((*PRE, 0, "behavior"), "MergedWithNext", r"\.behavior must be 'Isolated', got 'MergedWithNext' with invert False"),
    ((*PRE, 0), SPLIT | {"behavior": "Removed", "invert": True}, r"\.behavior must be 'Isolated', got 'Removed'"),
    ((*PRE, 0, "pattern"), {"Regex": r"\w+"}, r"pretokenizers\[0\]\.pattern\.Regex must be an expression whose"),
    ((*PRE, 0, "pattern"), {"Regex": patterns.SPELLINGS["gpt4"]}, r"\.pattern\.Regex must be an expression with inte"),
    ((*PRE, 0, "pattern"), {"String": ""}, r"\.pattern\.String must be an expression that never matches the empty"),
    ((*PRE, 0, "pattern"), {"Glob": "*"}, r"\.pattern must hold one of 'Regex' and 'String', got \['Glob'\]"),
    ((*PRE, 0, "pattern"), "a", r"pretokenizers\[0\]\.pattern must be an object, got 'a'"),
    ((*PRE, 1, "add_prefix_space"), True, r"pretokenizers\[1\]\.add_prefix_space must be false, got True"),
    ((*PRE, 1, "add_prefix_space"), DELETED, r"pretokenizers\[1\]\.add_prefix_space must be false, got True"),
    ((*PRE, 1, "use_regex"), 1, r"pretokenizers\[1\]\.use_regex must be true or false, got 1"),
    (("added_tokens",), {}, r"added_tokens must be an array, got \{\}"),
    (ADDED, 5, r"added_tokens\[1\] must be an object, got 5"),
    ((*ADDED, "content"), "", r"added_tokens\[1\]\.content must not be empty"),
    ((*ADDED, "content"), "<|endoftext|>", r"added_tokens\[1\]\.content must stand once, got '<\|endoftext\|>' again"),
    ((*ADDED, "content"), "é", r"added_tokens\[1\]\.(id must be \d+|content must not be spelled as other bytes)"),
    ((*ADDED, "id"), 9999, r"added_tokens\[1\]\.id must be 300, which tokenizers gives it, got 9999"),
    ((*ADDED, "id"), -1, r"added_tokens\[1\]\.id must be in 0 to 16777214, got -1"),
    ((*ADDED, "id"), "300", r"added_tokens\[1\]\.id must be a whole number, got '300'"),
    ((*ADDED, "lstrip"), True, r"added_tokens\[1\]\.lstrip must be false, got true for '<tool>'"),
    ((*ADDED, "rstrip"), True, r"added_tokens\[1\]\.rstrip must be false, got true"),
    ((*ADDED, "single_word"), True, r"added_tokens\[1\]\.single_word must be false, got true"),
    ((*ADDED, "normalized"), None, r"added_tokens\[1\]\.normalized must be true or false, got None"),
    ((*ADDED, "special"), DELETED, r"added_tokens\[1\]\.special must be true or false, got nothing"),
    ((*ADDED, "magic"), 1, r"added_tokens\[1\]\.magic must not be there"),
]
# fmt: on


@pytest.mark.parametrize(
    ("path", "value", "match"), REFUSED, ids=[f"{i} {one[0][-1]}" for i, one in enumerate(REFUSED)]
)
def test_what_is_not_supported_is_refused_by_its_place(small, tmp_path, path, value, match):
    document = json.loads(small)
    if path[:2] == ("model", "vocab"):
        document["added_tokens"] = []  # whose ids go by the vocab's size
    at(document, path, value)
    (tmp_path / "f.json").write_text(json.dumps(document) if value != 10**4000 else _with_a_huge_number(small))
    with pytest.raises(FormatError, match=match) as error:
        formats.read(tmp_path / "f.json")
    assert str(tmp_path / "f.json") in str(error.value)


def _with_a_huge_number(text):
    return text.replace('"vocab":{', '"vocab":{"qqq":' + "9" * 5000 + ",").replace(
        '"vocab": {', '"vocab": {"qqq":' + "9" * 5000 + ","
    )


def test_normalized_tokens_are_refused_where_nfc_or_the_order_of_passes_could_show(small, tmp_path):
    def refused(tokens, match, *, nfc):
        document = json.loads(small)
        document["normalizer"] = {"type": "NFC"} if nfc else None
        usual = document["added_tokens"][1]
        first = document["added_tokens"][0]
        document["added_tokens"] = [first, *(usual | one | {"id": 300 + i} for i, one in enumerate(tokens))]
        (tmp_path / "f.json").write_text(json.dumps(document))
        with pytest.raises(FormatError, match=match):
            formats.read(tmp_path / "f.json")

    late = {"normalized": True}
    refused([{"content": "<a>"} | late], r"\[1\]\.normalized must be false where NFC could change it", nfc=True)
    refused([{"content": "é|"} | late], r"\[1\]\.normalized must be false where NFC could change it", nfc=True)
    refused([{"content": "|K|"} | late], r"must not hold what NFC makes of other characters, got '\|K\|'", nfc=True)
    refused([{"content": "text|>x"} | late], "must not overlap where one is normalized and the other is not", nfc=False)
    refused([{"content": "x<|endoftext|>x"} | late], "must not overlap", nfc=False)
    refused([{"content": "of"} | late], "must not overlap", nfc=False)
    long = [{"content": "y" * 5000} | late]
    refused(long, "must all be normalized or none, where there are so many", nfc=False)


def test_a_special_token_that_is_also_a_token_is_refused(small, tmp_path):
    document = json.loads(small)
    document["added_tokens"][1]["content"] = " "
    (tmp_path / "f.json").write_text(json.dumps(document))
    with pytest.raises(VocabError, match=r"f\.json: vocab: a special token must not also merge, got ' '"):
        formats.read(tmp_path / "f.json")


def test_a_key_that_stands_twice_is_refused(small, tmp_path):
    (tmp_path / "f.json").write_text(small.replace('"truncation"', '"version":"1.0","truncation"', 1))
    with pytest.raises(FormatError, match="the key 'version' twice"):
        formats.read(tmp_path / "f.json")


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*patterns.SPELLINGS, "none"])
def test_a_named_pattern_is_exported_with_proof_and_comes_back_by_name(name, tmp_path, tiny_corpus):
    vocab = bpetok.train(TEXT, 700, pattern=name, special_tokens=["<|end of text|>"]).vocab
    formats.write(vocab, tmp_path / "tokenizer.json")
    encode = ids_in(tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
    tok = bpetok.Tokenizer(vocab)
    for text in tiny_corpus:
        assert encode(text) == tok.encode(text, allowed_special="all")
    again = formats.read(tmp_path / "tokenizer.json")
    for part in ("ranks", "special_tokens", "pattern", "merges"):
        assert getattr(again, part) == getattr(vocab, part), part
    assert (again.semantics, again.ignore_merges) == ("merges", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["p50k_base"])
def test_a_published_vocabulary_is_exported_with_its_ids(name, tmp_path, encoding):
    tok = encoding(name)
    tok.save(tmp_path / "tokenizer.json")
    again = bpetok.load(tmp_path / "tokenizer.json")
    assert (again.vocab.ranks, again.vocab.special_tokens) == (dict(tok.vocab.ranks), tok.vocab.special_tokens)
    assert again.vocab.split.name == tok.vocab.split.name


def test_special_tokens_between_tokens_keep_their_ids(tmp_path):
    ranks = {token: i + (i > 100) for i, token in enumerate(BYTES)} | {b"ab": 300}
    vocab = Vocab(ranks, {"<|mid|>": 101, "<｜far｜>": 1000, "x y": 299}, "gpt2")
    formats.write(vocab, tmp_path / "tokenizer.json")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ids_in(library)("a<|mid|>ab<｜far｜>x y") == [ranks[b"a"], 101, 300, 1000, 299]
    assert formats.read(tmp_path / "tokenizer.json").special_tokens == vocab.special_tokens


def test_tokens_that_no_merge_makes_are_found_whole(tmp_path):
    ranks = BYTES | {b"in": 256, b"ing": 257, b"walk": 258}
    vocab = Vocab(ranks, {}, "gpt2")
    formats.write(vocab, tmp_path / "tokenizer.json")
    again = formats.read(tmp_path / "tokenizer.json")
    assert (again.ignore_merges, again.merges, again.ranks) == (True, ((105, 110), (256, 103)), ranks)
    encode = ids_in(tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
    assert encode("walk,walking") == bpetok.Tokenizer(vocab).encode("walk,walking") == [258, 44, *b"walk", 257]


def test_what_the_format_cannot_hold_or_prove_is_refused_and_leaves_nothing(tmp_path, mine, monkeypatch):
    def refused(vocab, match):
        with pytest.raises((FormatError, VocabError), match=match):
            formats.write(vocab, tmp_path / "a.json", format="huggingface")

    refused(Vocab(BYTES, {"<a>": 256, "<b>": 256}), "each special token must have an id of its own, got 256 for")
    refused(Vocab(BYTES, {"Ā": 300}), "a special token must not be spelled as another token is, got 'Ā'")
    refused(Vocab(BYTES, {}, r"\w+|\W"), r"the split pattern must be an expression whose escapes mean the same")
    refused(Vocab(BYTES, {}, r"\s+$|."), r"the split pattern must mean the same in Oniguruma as here")
    by_rank = BYTES | {b"bc": 256, b"ab": 257, b"abc": 258}  # by rank "xabc" is x, abc; by these merges x, a, bc
    monkeypatch.setattr(probe, "TEXTS", ("xabc",))
    refused(Vocab(by_rank, {}, "gpt2", [(98, 99), (97, 98), (257, 99)]), "the ids of 'xabc' must be those of bpetok")
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_without_a_name_is_exported_where_tokenizers_proves_it(tmp_path, monkeypatch):
    vocab = bpetok.train(TEXT, 400, pattern=r"[a-z]+|\p{Han}|\s+(?!\S)|.|\n").vocab
    formats.write(vocab, tmp_path / "a.json", format="huggingface")
    assert formats.read(tmp_path / "a.json").pattern == vocab.pattern
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FormatError, match="the split pattern must have a name where tokenizers is not installed"):
        formats.write(vocab, tmp_path / "b.json", format="huggingface")
    named = bpetok.train(TEXT, 400, pattern="gpt4").vocab
    formats.write(named, tmp_path / "b.json", format="huggingface")
    assert formats.read(tmp_path / "b.json").split.name == "gpt4"


def test_a_folder_is_what_transformers_reads(tmp_path, mine):
    formats.write(mine, tmp_path / "model", format="huggingface")
    program = """
import json, sys
from transformers import AutoTokenizer
tok = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.stdin.read())
ids = [tok.encode(text, add_special_tokens=False) for text in texts]
print(json.dumps([ids, [tok.decode(one) for one in ids], tok.eos_token_id, len(tok)]))
"""
    texts = [*probe.TEXTS, "a<|im_start|>ünï 東<|endoftext|>"]
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model")],
        input=json.dumps(texts), capture_output=True, text=True, check=True,
    )  # fmt: skip
    ids, decoded, end, size = json.loads(run.stdout.splitlines()[-1])
    tok = bpetok.Tokenizer(mine)
    assert ids == [tok.encode(text, allowed_special="all") for text in texts]
    assert decoded == texts
    assert (end, size) == (tok.eot_token, len(mine))


# ---- the registry ----------------------------------------------------------------------------------------------------


def test_every_format_has_its_module_with_three_functions():
    assert formats.NAMES == ("bpetok", "gguf", "huggingface", "minbpe", "tekken", "tiktoken", "tiktoken-plugin")
    for one in formats.FORMATS:
        module = one.load()
        assert all(callable(getattr(module, name)) for name in ("recognises", "read", "write")), one.name


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (b"\x80\x04\x95\x10", "got a pickle, which could run code and is never read"),
        (b"\x80\x02}q\x00.", "got a pickle"),
        (b"PK\x03\x04\x00\x00", "got a zip file"),
        ((64).to_bytes(8, "little") + b'{"__metadata__":{}}', "got safetensors, which hold weights"),
        (b"\x1f\x8b\x08\x00", "got a gzip file; unpack it first"),
        (
            b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x05\n\x03<s>",
            "got a sentencepiece model, which is not byte-",
        ),
        (b"", "got an empty file"),
        (b"hello", "got a file that begins with b'hello'"),
        (b'{"model": 5', "must be a JSON document"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_what_it_is(tmp_path, head, match):
    (tmp_path / "tokenizer.model").write_bytes(head)
    with pytest.raises(FormatError, match=match):
        formats.read(tmp_path / "tokenizer.model")


def test_a_folder_is_recognised_by_what_lies_in_it(tmp_path, small):
    with pytest.raises(FormatError, match=r"must hold one of tokenizer\.json, tekken\.json, tiktoken_ext, got none"):
        formats.read(tmp_path)
    (tmp_path / "tokenizer.json").write_text(small)
    assert formats.recognise(tmp_path) == formats.recognise(tmp_path / "tokenizer.json") == "huggingface"
    assert formats.read(tmp_path).name == tmp_path.name
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(FormatError, match=r"got tokenizer\.json and tekken\.json\nhint: name the file itself"):
        formats.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.bpetok", None, "bpetok"), ("a.tiktoken", None, "tiktoken"), ("a.model", None, "minbpe"),
        ("a.gguf", None, "gguf"), ("tokenizer.json", None, "huggingface"), ("tekken.json", None, "tekken"),
        ("a.bpetok", "huggingface", "huggingface"), ("folder", "tiktoken-plugin", "tiktoken-plugin"),
    ],
)  # fmt: skip
def test_the_format_to_write_is_named_or_the_files_name_says_it(name, format, expected):
    assert formats.format_to_write(Path(name), format).name == expected


@pytest.mark.parametrize("name", ["folder", "a.json", "a.py", "a.pkl", ".bpetok"])
def test_a_path_that_could_be_several_formats_is_refused(name, tmp_path, mine):
    with pytest.raises(FormatError, match=r"the suffix must be one of .* or the name .*, got") as error:
        formats.write(mine, tmp_path / name)
    assert error.value.hint == f"name the format: {', '.join(formats.NAMES)}"
    with pytest.raises(FormatError, match=r"format must be one of bpetok, .*, got 'pickle'"):
        formats.write(mine, tmp_path / name, format="pickle")


def test_a_decoder_is_not_needed_for_ids(tmp_path):
    formats.write(Vocab({token: i for i, token in enumerate(BYTES)}, {}, "gpt2"), tmp_path / "tokenizer.json")
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["decoder"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tok = bpetok.load(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tok.encode("née 東京") == theirs.encode("née 東京").ids
    assert tok.decode(tok.encode("née 東京")) == "née 東京"
