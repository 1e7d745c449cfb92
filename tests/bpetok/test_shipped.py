"""Our own vocabularies: what is installed is what `vocab/README.md` says, and works as tiktoken would have it."""

import hashlib
import pickle
import re
from pathlib import Path

import pytest
import tiktoken

import bpetok
from bpetok import _core, encodings

NAMES = list(encodings.SHIPPED)
IDS = {"bpetok_32k": 32_768, "bpetok_64k": 65_024}
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    *(f"<|reserved_{i}|>" for i in range(57)),
]
TEXT = (
    "The quick brown fox doesn't jump: 1234567 times!\r\n\n\tdef f(x):\n        return x ** 2  # naïve\n"
    "Zwölf Boxkämpfer jagen Viktor; où est l'été? ¿Dónde está el niño? Żółć, příliš žluťoučký kůň, Iğdır'da.\n"
    "Съешь же ещё этих мягких французских булок. Жебракують філософи при ґанку. Ξεσκεπάζω τὴν ψυχοφθόρα.\n"
    "我能吞下玻璃而不傷身體。いろはにほへと、プログラム。다람쥐 헌 쳇바퀴에 타고파. Tôi có thể ăn thủy tinh.\n"
    "نص عربي مع أرقام ١٢٣، עטלף אבק נס, हिन्दी में एक वाक्य है। ภาษาไทย ქართული ენა հայերեն አማርኛ தமிழ் తెలుగు\n"
    "🙂👩‍👩‍👧‍👦🇩🇪 \u0301\u200b\ufeff ﷽ 𝔘𝔫𝔦 \x00\x7f <|endoftext|> trailing blanks   \n   "
)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each."""
    return str(request.param)


@pytest.fixture
def file(name: str) -> Path:
    """The file as it is installed."""
    return encodings.shipped_folder() / f"{name}.bpetok"


@pytest.fixture(scope="module")
def readme() -> str:
    """The README as it is installed."""
    return (encodings.shipped_folder() / "README.md").read_text(encoding="utf-8")


def rows_of(readme: str, first: str) -> list[list[str]]:
    """The rows of the README's table whose first column has this head, without the marks of Markdown."""
    table = re.search(rf"^\| {first} \|.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", readme, re.MULTILINE)
    assert table, f"no table of {first}"
    return [[cell.strip().strip("`") for cell in line.strip("|\n").split("|")] for line in table[1].splitlines()]


def test_the_file_is_that_of_the_readme(name, file, readme):
    row = next(row for row in rows_of(readme, "file") if row[0] == file.name)
    contents = file.read_bytes()
    tok = bpetok.get_encoding(name)
    assert row[1:] == [
        f"{tok.n_vocab:,}",
        f"{len(contents):,}",
        hashlib.sha256(contents).hexdigest(),
        tok.vocab.fingerprint,
    ]


def test_the_sources_are_those_of_the_readme_and_name_no_folder(name, readme):
    provenance = bpetok.get_encoding(name).vocab.provenance
    sources = [
        [source["file"].removesuffix(".txt"), f"{source['bytes']:,}", source["sha256"], str(source["weight"])]
        for source in provenance["sources"]
    ]
    rows = rows_of(readme, "source")
    assert [[row[0], *row[4:]] for row in rows] == sources
    assert provenance["bytes"] == sum(source["bytes"] * source["weight"] for source in provenance["sources"])
    assert all("/" not in source["file"] and "\\" not in source["file"] for source in provenance["sources"])
    assert all(licence for _, _, _, licence, *_ in rows)


def test_by_name_it_is_what_is_read_from_its_file(name, file):
    by_name, loaded = bpetok.get_encoding(name).vocab, bpetok.load(file).vocab
    assert by_name == loaded
    assert (dict(by_name.ranks), dict(by_name.special_tokens)) == (dict(loaded.ranks), dict(loaded.special_tokens))
    assert by_name.merges == loaded.merges
    assert (by_name.name, by_name.pattern, dict(by_name.provenance)) == (name, loaded.pattern, dict(loaded.provenance))


def test_saved_again_it_is_the_same_file(name, file, tmp_path):
    bpetok.get_encoding(name).save(tmp_path / file.name)
    assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_it_pickles_by_value(name):
    tok = bpetok.get_encoding(name)
    again = pickle.loads(pickle.dumps(tok))
    assert again == tok
    assert again.vocab.merges == tok.vocab.merges


def test_ids_are_dense_and_fit_shards_of_16_bits(name):
    tok = bpetok.get_encoding(name)
    assert sorted(tok.vocab) == list(range(IDS[name]))
    assert tok.n_vocab == IDS[name] <= 65_024
    assert IDS[name] % 128 == 0


def test_special_tokens_have_the_last_ids_end_of_text_first(name):
    tok = bpetok.get_encoding(name)
    first = IDS[name] - len(SPECIAL_TOKENS)
    assert dict(tok.vocab.special_tokens) == {text: first + i for i, text in enumerate(SPECIAL_TOKENS)}
    assert tok.eot_token == first
    begin, *_, end = tok.encode("<|im_start|>user\nhi<|im_end|>", allowed_special="all")
    assert (begin, end) == (first + 2, first + 3)


def test_merges_make_the_tokens_in_the_order_of_their_ids(name):
    vocab = bpetok.get_encoding(name).vocab
    assert vocab.merges is not None
    assert [vocab[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    made = [vocab[left] + vocab[right] for left, right in vocab.merges]
    assert made == [vocab[i] for i in range(256, len(vocab.ranks))]
    assert len(vocab.merges) == len(made)


def test_every_token_is_reached(name):
    tok = bpetok.get_encoding(name)
    assert _core.Encoder(dict(tok.vocab.ranks), "none", 0).unreachable() == []


def test_the_large_one_begins_as_the_small_one():
    small, large = (bpetok.get_encoding(name).vocab for name in NAMES)
    assert large.merges is not None
    assert small.merges is not None
    assert large.merges[: len(small.merges)] == tuple(small.merges)


def test_text_of_many_languages_comes_back(name):
    tok = bpetok.get_encoding(name)
    assert tok.decode(tok.encode_ordinary(TEXT)) == TEXT
    everything = bytes(range(256)) * 3
    assert tok.decode_bytes(tok.encode_ordinary(everything)) == everything
    assert tok.eot_token not in tok.encode_ordinary(TEXT)


@pytest.fixture
def theirs(name: str) -> tiktoken.Encoding:
    """The same vocabulary in tiktoken."""
    vocab = bpetok.get_encoding(name).vocab
    return tiktoken.Encoding(
        name,
        pat_str=str(vocab.pattern),
        mergeable_ranks=dict(vocab.ranks),
        special_tokens=dict(vocab.special_tokens),
        explicit_n_vocab=len(vocab),
    )


def test_ids_are_tiktokens(name, theirs):
    ours = bpetok.get_encoding(name)
    assert ours.encode_ordinary(TEXT) == theirs.encode_ordinary(TEXT)
    assert ours.encode(TEXT, allowed_special="all") == theirs.encode(TEXT, allowed_special="all")


def test_ids_are_tiktokens_on_real_text(name, theirs, corpus, assert_ids, expected_of):
    texts = [text[:100_000] for text in corpus.values()]
    assert_ids(bpetok.get_encoding(name), texts, expected_of(theirs, texts), theirs)


def test_with_64k_ids_no_more_tokens_than_with_32k(corpus):
    small, large = (bpetok.get_encoding(name) for name in NAMES)
    for text in corpus.values():
        assert large.count(text[:100_000]) <= small.count(text[:100_000])


@pytest.mark.parametrize("contents", [None, b"", b"{}"])
def test_a_file_that_is_missing_or_altered_is_named_with_a_hint(name, contents, tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "shipped_folder", lambda: tmp_path)
    if contents is not None:
        (tmp_path / f"{name}.bpetok").write_bytes(contents)
    with pytest.raises(
        bpetok.UnavailableError, match=rf"{name}\.bpetok: must be the file that came with bpetok"
    ) as caught:
        encodings._made.__wrapped__(name, 64)
    assert caught.value.hint == "install bpetok again"


def test_the_files_are_small_enough_for_the_wheel():
    files = list(encodings.shipped_folder().iterdir())
    assert {file.name for file in files} == {"README.md", *(f"{name}.bpetok" for name in NAMES)}
    assert sum(file.stat().st_size for file in files) < 3_000_000
