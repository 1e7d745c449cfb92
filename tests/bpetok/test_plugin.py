"""tiktoken plugins: the module gives our ids in tiktoken, and reading one runs nothing."""

import dataclasses
import json
import subprocess
import sys

import pytest

import bpetok
from bpetok import Vocab, formats
from bpetok.formats import plugin, probe

ODD_SPECIALS = ["<|endoftext|>", "ünï 東 🙂", "quo\"te'\\", "new\nline", "{brace}", '"""']
TEXT = "\n".join(probe.TEXTS)


@pytest.fixture(scope="module")
def tok():
    trained = bpetok.train(TEXT, 600, pattern="gpt4o", special_tokens=ODD_SPECIALS)
    return bpetok.Tokenizer(dataclasses.replace(trained.vocab, name="my_encoding"))


@pytest.fixture
def folder(tmp_path, tok):
    formats.write(tok.vocab, tmp_path / "plugin", format="tiktoken-plugin")
    return tmp_path / "plugin"


@pytest.fixture
def module(folder):
    return folder / "tiktoken_ext" / "my_encoding.py"


def in_tiktoken(folder, program, text=TEXT):
    """What a program prints in a process of its own, since tiktoken looks for its plugins once."""
    environment = {"PYTHONPATH": str(folder), "TIKTOKEN_CACHE_DIR": str(folder / "no cache"), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, input=json.dumps(text), capture_output=True, text=True
    )
    return done.stdout or done.stderr


ENCODE = """
import json, sys, tiktoken
encoding = tiktoken.get_encoding("my_encoding")
text = json.load(sys.stdin)
print(json.dumps([encoding.encode_ordinary(text), encoding.encode(text, allowed_special="all"), encoding.n_vocab]))
"""


def test_tiktoken_finds_the_encoding_and_gives_our_ids(folder, tok):
    text = TEXT + "".join(ODD_SPECIALS)
    ordinary, everything, size = json.loads(in_tiktoken(folder, ENCODE, text))
    assert ordinary == tok.encode_ordinary(text)
    assert everything == tok.encode(text, allowed_special="all")
    assert size == len(tok.vocab)


def test_tiktokens_own_encodings_are_still_listed_beside_it(folder):
    names = in_tiktoken(folder, "import tiktoken; print(tiktoken.list_encoding_names())")
    assert "'my_encoding'" in names
    assert "'cl100k_base'" in names


def test_the_module_uses_no_cache_and_no_network(folder, module):
    in_tiktoken(folder, ENCODE)
    assert not (folder / "no cache").exists()
    source = module.read_text()
    for word in ("tempfile", "urllib", "requests", "load_tiktoken_bpe", "data_gym"):
        assert word not in source


def test_altered_ranks_are_refused_by_the_module_and_by_the_reader(folder, module):
    ranks = module.with_suffix(".tiktoken")
    ranks.write_bytes(ranks.read_bytes() + b"\n")
    assert "so the file was altered" in in_tiktoken(folder, ENCODE)
    with pytest.raises(bpetok.FormatError, match=r"my_encoding\.tiktoken: sha256 must be \w{64}, got \w{64}"):
        formats.read(module)


def test_a_plugin_is_read_by_its_module_and_by_its_folder(folder, module, tok):
    for path in (folder, module):
        again = formats.read(path)
        assert again == tok.vocab
        assert (again.name, again.special_tokens) == ("my_encoding", tok.vocab.special_tokens)
    assert formats.recognise(module) == formats.recognise(folder) == "tiktoken-plugin"


def test_reading_runs_nothing(folder, module, tmp_path):
    good = module.read_text()
    trace = tmp_path / "ran"
    attack = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    for bad, match in [
        (good + attack + "\n", "must be a module as bpetok writes it, since no other is read"),
        (good.replace("import base64", f"import base64; {attack}"), "must be a module as bpetok writes it"),
        (good.replace("NAME = 'my_encoding'", f"NAME = {attack}", 1), "NAME must be a literal"),
        (good.replace("TOKENS = {", "TOKENS = {" + attack + ": 1, ", 1), "SPECIAL_TOKENS must be a literal"),
        (good.replace("my_encoding", "other"), "NAME must be that of the file, 'my_encoding', got"),
        (good.replace("NAME = 'my_encoding'", "NAME = 5"), "must hold NAME, PATTERN and SHA256 as texts"),
        (good.replace("PATTERN = ", "PATTERN = 5 #"), "must hold NAME, PATTERN and SHA256 as texts"),
        (good.replace("SHA256 = ", "OTHER = "), "must hold NAME, PATTERN and SHA256 as texts"),
        (good.replace("SPECIAL_TOKENS = ", "SPECIAL_TOKENS = 5 #"), "SPECIAL_TOKENS must be texts and their ids"),
        (good.replace(": 600", ": True"), "SPECIAL_TOKENS must be texts and their ids"),
        (good.replace("NAME = ", "NAME = " + "(" * 1000, 1), "NAME must be a literal"),
        (good.replace("\n\n\nENCODING", "\nENCODING"), "must be a module as bpetok writes it"),
        (good + "#" * (1 << 21), "must be at most 2097152 bytes"),
    ]:  # fmt: skip
        assert bad != good
        module.write_text(bad)
        with pytest.raises(bpetok.FormatError, match=match) as caught:
            formats.read(module)
        assert str(module) in str(caught.value)
    assert not trace.exists()


def test_another_plugin_is_recognised_and_refused_by_name(tmp_path):
    (tmp_path / "x.py").write_text("import os\nENCODING_CONSTRUCTORS = {'x': lambda: os.abort()}\n")
    with pytest.raises(bpetok.FormatError, match="must hold NAME, PATTERN and SHA256 as texts"):
        formats.read(tmp_path / "x.py")


def test_a_plugin_without_its_ranks_is_refused(module):
    module.with_suffix(".tiktoken").unlink()
    with pytest.raises(bpetok.FormatError, match="the ranks must be beside their module, got no file"):
        formats.read(module)


def test_a_folder_with_two_modules_is_refused(folder):
    (folder / "tiktoken_ext" / "second.py").write_text("x")
    with pytest.raises(bpetok.FormatError, match="must hold one module in tiktoken_ext, got 2"):
        formats.read(folder)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "1st", "a-b", "a b", "class", "x" * 65, "é", "a\n", "a.b"])
def test_a_name_that_is_no_modules_is_refused(tmp_path, tok, name):
    vocab = dataclasses.replace(tok.vocab, name=name)
    with pytest.raises(
        bpetok.FormatError, match="name must be a name for a module: letters, digits and _, got"
    ) as caught:
        formats.write(vocab, tmp_path / "plugin", format="tiktoken-plugin")
    assert "dataclasses.replace" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cl100k_base", "gpt2", "openai_public"])
def test_a_name_that_tiktoken_has_is_refused_since_it_would_break_every_plugin(tmp_path, tok, name):
    with pytest.raises(bpetok.FormatError, match="name must be a name that tiktoken does not have yet, got"):
        formats.write(dataclasses.replace(tok.vocab, name=name), tmp_path / "plugin", format="tiktoken-plugin")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pattern": None}, "tiktoken has one pattern, got none"),
        ({"pattern": ("a|b", "c|d")}, "tiktoken has one pattern, got"),
        ({"normalization": "NFC"}, "tiktoken normalizes nothing"),
        ({"semantics": "merges", "merges": [(99, 97), (97, 98)]}, "tiktoken merges by rank, which must give the same"),
        ({"pattern": r"(?<!a)b|\p{Block=Thai}+"}, "must be what tiktoken can be made of, got"),
        ({"pattern": r"[[a-z]--[c-d]]+|."}, "in tiktoken: the ids of .* must be those of bpetok"),
    ],
)
def test_what_tiktoken_cannot_be_is_refused(tmp_path, changes, match):
    pytest.importorskip("tiktoken")
    plain = Vocab.from_merges([(97, 98), (99, 97)], pattern="gpt2", name="odd")
    with pytest.raises(bpetok.FormatError, match=match):
        formats.write(dataclasses.replace(plain, **changes), tmp_path / "plugin", format="tiktoken-plugin")
    assert list(tmp_path.iterdir()) == []


def test_without_tiktoken_a_plugin_is_proven_by_reading_it(tmp_path, tok, monkeypatch):
    monkeypatch.setattr(plugin.importlib.util, "find_spec", lambda name: None)
    encode, who = plugin.encoder(tok.vocab, tmp_path)
    assert encode("low lower") == tok.encode_ordinary("low lower")
    assert who.endswith("read again")
