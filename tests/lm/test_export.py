"""What `lm export` writes is read by `transformers` itself: our logits, our ids; and nothing half is left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bpetok
from bpetok.errors import FormatError, IncompatibleError
from lm.alphabet import BYTES, Alphabet, Vocabulary
from lm.config import Config
from lm.errors import CheckpointError, ConfigError, NonFiniteError
from lm.export import end_of_text, export_huggingface, export_run, require_free
from lm.huggingface import load_model
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.mlp import MLP, MLPConfig

transformers = pytest.importorskip("transformers", reason="transformers is not installed: nobody reads the exports")

CONFIG = GPT2Config(context=16, layers=2, heads=4, width=32, dropout=0.1)
TEXTS = [
    "The 12 cats sat on 345 mats, and dogs didn't.\n",
    "Größe, naïve: 日本 🙂\n  x\t\ty",
    "I'M   here <|endoftext|>\n\n\n",
]
IDS_BT = torch.randint(250, (2, 16), generator=torch.Generator().manual_seed(5))


def tokenizer_of(pattern: str = "gpt4", special: str = "<|endoftext|>") -> bpetok.Tokenizer:
    return bpetok.train(TEXTS * 3, vocab_size=290, pattern=pattern, special_tokens=[special])


def model_of(vocab_size: int) -> GPT2:
    torch.manual_seed(1)
    model = GPT2(CONFIG, vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


# ---- what transformers makes of it -------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "gpt4o"])
def test_transformers_gives_our_logits_and_our_ids(tmp_path: Path, pattern: str) -> None:
    tokenizer = tokenizer_of(pattern)
    model = model_of(tokenizer.n_vocab)
    export_huggingface(model, tokenizer, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS_BT).logits, model(IDS_BT), rtol=0, atol=1e-5)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        ids = tokenizer.encode(text, allowed_special="all")
        assert their_tokenizer(text)["input_ids"] == ids
        assert their_tokenizer.decode(ids) == text
    ends = tokenizer.eot_token
    assert their_tokenizer.eos_token_id == theirs.config.eos_token_id == theirs.config.bos_token_id == ends == 290
    assert len(their_tokenizer) == theirs.config.vocab_size == 291


def test_generation_begins_and_ends_as_the_model_was_trained(tmp_path: Path) -> None:
    tokenizer = tokenizer_of()
    model = model_of(tokenizer.n_vocab)
    with torch.no_grad():  # the end of the text is what comes next, whatever was before
        model.token_embedding.weight[tokenizer.eot_token] = 10 * model.norm.bias
    export_huggingface(model, tokenizer, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    drawn = theirs.generate(max_new_tokens=5, do_sample=False)
    assert drawn.tolist() == [[290, 290]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loads_in_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    model = model_of(60)
    export_huggingface(model, None, tmp_path / "out", dtype=dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    wanted = model_of(60).to(dtype).state_dict()
    assert theirs.dtype == dtype
    assert torch.equal(theirs.transformer.wte.weight, wanted["token_embedding.weight"][:60])
    assert torch.equal(theirs.transformer.h[1].mlp.c_fc.weight, wanted["blocks.1.feedforward.expand.weight"].t())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


def test_what_is_exported_is_read_by_us(tmp_path: Path) -> None:
    tokenizer = tokenizer_of()
    model = model_of(tokenizer.n_vocab)
    export_huggingface(model, tokenizer, tmp_path / "out")
    again, ids = load_model(tmp_path / "out", torch.device("cpu"))
    assert torch.equal(again(IDS_BT), model(IDS_BT))
    assert [ids.encode_ordinary(text) for text in TEXTS] == [tokenizer.encode_ordinary(text) for text in TEXTS]


CHARACTERS = Alphabet.of_text("".join(TEXTS) + "\x00\r\u0301\u200b\ufeff\u3000\U0010ffff", newline_first=True)


@pytest.mark.parametrize("alphabet", [BYTES, CHARACTERS])
def test_an_alphabet_is_a_tokenizer_there(tmp_path: Path, alphabet: Alphabet) -> None:
    export_huggingface(model_of(alphabet.n_vocab), alphabet, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(theirs) == alphabet.n_vocab and theirs.eos_token_id is None
    for text in [*TEXTS, CHARACTERS.characters or ""]:
        ids = alphabet.encode_ordinary(text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.bos_token_id, config.eos_token_id) == (None, None)
    if alphabet is CHARACTERS:
        with pytest.raises(Exception, match=r"WordLevel error: Missing \[UNK\] token"):
            theirs("a ж b")


def test_a_tokenizer_without_an_end_of_text_has_none_there() -> None:
    assert end_of_text(tokenizer_of(special="<s>")) is None
    assert end_of_text(tokenizer_of()) == 290
    assert end_of_text(BYTES) is None


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_another_rung_and_another_vocabulary_are_refused(tmp_path: Path) -> None:
    mlp = MLP(MLPConfig(context=8, window=3, embedding=4, hidden=16), 60)
    with pytest.raises(IncompatibleError, match=r"the model must be of the rung gpt2, got MLP\nhint: neither transf"):
        export_huggingface(mlp, None, tmp_path / "out")
    with pytest.raises(IncompatibleError, match=r"the vocabulary must have 60 ids, as the model has, got 256"):
        export_huggingface(model_of(60), BYTES, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_the_format_cannot_hold_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of()
    monkeypatch.setattr("bpetok.formats.huggingface._pre_tokenizer", lambda *args: {"type": "ByteLevel"})
    with pytest.raises(FormatError, match=r"must.*\nhint: .*--no-tokenizer .* writes the weights alone"):
        export_huggingface(model_of(tokenizer.n_vocab), tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    tokenizer = tokenizer_of()
    model = model_of(tokenizer.n_vocab)
    with torch.no_grad():
        model.norm.weight[3] = 1e5
    (tmp_path / "out").mkdir()
    with pytest.raises(NonFiniteError, match=r"transformer.ln_f.weight must be finite as float16"):
        export_huggingface(model, tokenizer, tmp_path / "out", dtype=torch.float16)
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]
    export_huggingface(model, tokenizer, tmp_path / "out")  # an empty folder is taken
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "folder", "nowhere", "link"):
        with pytest.raises(FormatError, match=rf"{name}: must not be there yet, but is\nhint: name another place"):
            export_huggingface(model_of(60), None, tmp_path / name)
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"
    require_free(tmp_path / "empty")
    require_free(tmp_path / "new")


# ---- a run -------------------------------------------------------------------------------------------------------


def run_of(folder: Path, small_run: Callable[..., Config], **settings: object) -> Path:
    from lm.train import train

    train(small_run(steps=1, **settings), folder)
    return folder


def test_a_run_is_exported_as_its_latest_checkpoint_has_it(tmp_path: Path, small_run: Callable[..., Config]) -> None:
    from lm.sample import load_run

    run = run_of(tmp_path / "run", small_run)
    done = export_run(run, tmp_path / "deep" / "out", dtype="float32")
    model, vocabulary, _ = load_run(run, torch.device("cpu"))
    again, ids = load_model(done.output, torch.device("cpu"))
    ids_BT = IDS_BT[:, : model.context]
    assert torch.equal(again(ids_BT), model(ids_BT))
    assert ids.encode_ordinary(TEXTS[0]) == vocabulary.encode_ordinary(TEXTS[0])
    files = list((tmp_path / "deep" / "out").iterdir())
    assert (done.format, done.tokenizer) == ("huggingface", True)
    assert done.bytes == sum(path.stat().st_size for path in files)
    config = json.loads((done.output / "config.json").read_text())
    V, C, T, L = config["vocab_size"], config["n_embd"], config["n_ctx"], config["n_layer"]
    assert done.parameters == V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C


def test_a_run_of_another_rung_is_refused(tmp_path: Path, small_run: Callable[..., Config]) -> None:
    run = run_of(tmp_path / "run", small_run, rung="bigram")
    with pytest.raises(IncompatibleError, match=r"must be of the rung gpt2, got Bigram"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mistakes_are_found_before_the_run_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"export: format must be one of huggingface, gguf, got 'onnx'"):
        export_run(tmp_path, tmp_path / "out", format="onnx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"export: dtype must be one of float32, float16, bfloat16, got 'int8'"):
        export_run(tmp_path, tmp_path / "out", dtype="int8")
    (tmp_path / "a.gguf").touch()
    with pytest.raises(FormatError, match=r"a.gguf: must not be there yet, but is"):
        export_run(tmp_path / "none", tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match=r"a run must have a checkpoint, got none"):
        export_run(tmp_path / "none", tmp_path / "out")


def test_both_kinds_of_vocabulary_are_what_lm_calls_one() -> None:
    vocabularies: list[Vocabulary] = [tokenizer_of(), CHARACTERS, BYTES]
    assert [vocabulary.n_vocab for vocabulary in vocabularies] == [291, len(CHARACTERS.characters or ""), 256]
