"""The GGUF file: read back by the `gguf` package, by `transformers` and by bpetok."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import bpetok
from bpetok.errors import FormatError, IncompatibleError, MissingExtraError
from lm.alphabet import BYTES, Alphabet
from lm.config import Config
from lm.errors import NonFiniteError
from lm.export import export_huggingface, export_run
from lm.gguf import export_gguf, to_gguf
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.mlp import MLP, MLPConfig

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
NO_ACCELERATE = importlib.util.find_spec("accelerate") is None

CONFIG = GPT2Config(context=16, layers=2, heads=4, width=32)
TEXTS = [
    "The 12 cats sat on 345 mats, and dogs didn't.\n",
    "Größe, naïve: 日本 🙂\n  x\t\ty",
    "I'M   here <|endoftext|>\n\n\n",
]
IDS_BT = torch.randint(250, (2, 16), generator=torch.Generator().manual_seed(5))


def tokenizer_of(pattern: str = "gpt2") -> bpetok.Tokenizer:
    return bpetok.train(TEXTS * 3, vocab_size=290, pattern=pattern, special_tokens=["<|endoftext|>"])


def model_of(vocab_size: int, config: GPT2Config = CONFIG) -> GPT2:
    torch.manual_seed(1)
    model = GPT2(config, vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.gguf` in float32, tokenizer and all, and the same model's config for Hugging Face."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = tokenizer_of()
    export_gguf(model_of(tokenizer.n_vocab), tokenizer, folder / "model.gguf", name="small")
    export_huggingface(model_of(tokenizer.n_vocab), None, folder / "huggingface")
    return folder


# ---- read back ---------------------------------------------------------------------------------------------------


def test_the_fields_are_those_of_llama_cpps_converter(exported: Path) -> None:
    fields = gguf.GGUFReader(exported / "model.gguf").fields
    found = {key: field.contents() for key, field in fields.items() if not key.startswith(("GGUF.", "tokenizer."))}
    assert found.pop("gpt2.attention.layer_norm_epsilon") == pytest.approx(1e-5)
    assert found == {
        "general.architecture": "gpt2",
        "general.name": "small",
        "general.file_type": 0,
        "gpt2.block_count": 2,
        "gpt2.context_length": 16,
        "gpt2.embedding_length": 32,
        "gpt2.feed_forward_length": 128,
        "gpt2.attention.head_count": 4,
        "gpt2.vocab_size": 291,
    }


def test_the_tensors_are_all_that_the_package_knows_of_gpt2_but_the_tied_head(exported: Path) -> None:
    reader = gguf.GGUFReader(exported / "model.gguf")
    names = gguf.TENSOR_NAMES
    known = {names[one] for one in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.GPT2]} - {"output"}
    wanted = {name.format(bid=layer) for name in known for layer in range(2)}
    assert {tensor.name.rpartition(".")[0] for tensor in reader.tensors} == wanted
    state = model_of(291).state_dict()
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert np.array_equal(found["token_embd.weight"].data, state["token_embedding.weight"][:291])
    assert np.array_equal(found["blk.1.attn_qkv.weight"].data, state["blocks.1.attention.qkv.weight"])
    assert np.array_equal(found["blk.0.ffn_down.weight"].data, state["blocks.0.feedforward.project.weight"])
    assert np.array_equal(found["output_norm.bias"].data, state["norm.bias"])
    assert found["blk.0.ffn_up.weight"].shape.tolist() == [32, 128]  # ggml names the fastest dimension first


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_matrices_are_in_half_precision_and_the_rest_is_not(tmp_path: Path, kind: str) -> None:
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
    model = model_of(60)
    export_gguf(model, None, tmp_path / "m.gguf", dtype=dtype)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType[f"MOSTLY_{kind}"]
    for tensor in reader.tensors:
        matrix = len(tensor.shape) == 2 and tensor.name != "position_embd.weight"
        assert tensor.tensor_type.name == (kind if matrix else "F32"), tensor.name
    found = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_up.weight")
    numbers = gguf.quants.dequantize(found.data, found.tensor_type)
    wanted = model.state_dict()["blocks.1.feedforward.expand.weight"].to(dtype).float()
    assert np.array_equal(numbers, wanted)


def test_transformers_reads_our_tensors_from_it(exported: Path) -> None:
    """What `from_pretrained(gguf_file=...)` does, without the package that it wants besides."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(exported / "huggingface")
    theirs = transformers.GPT2LMHeadModel(config).eval()
    read = load_gguf_checkpoint(exported / "model.gguf", return_tensors=True, model_to_load=theirs)
    kept = ("n_layer", "n_embd", "n_head", "n_ctx", "layer_norm_epsilon", "vocab_size")
    assert {key: read["config"][key] for key in kept} == pytest.approx({key: getattr(config, key) for key in kept})
    with torch.no_grad():
        missing = theirs.load_state_dict(read["tensors"], strict=False)
        theirs.tie_weights()
        assert missing.missing_keys in ([], ["lm_head.weight"]) and missing.unexpected_keys == []
        torch.testing.assert_close(theirs(IDS_BT).logits, model_of(291)(IDS_BT), rtol=0, atol=1e-5)


@pytest.mark.skipif(NO_ACCELERATE, reason="accelerate is not installed, without which transformers loads no GGUF file")
def test_transformers_loads_it_whole(exported: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.AutoConfig.from_pretrained(exported / "huggingface")  # it takes n_positions for 1,024
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported, gguf_file="model.gguf", config=config).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS_BT).logits, model_of(291)(IDS_BT), rtol=0, atol=1e-5)


def test_the_tokenizer_in_it_gives_our_ids_here_and_in_transformers(exported: Path) -> None:
    tokenizer, again = tokenizer_of(), bpetok.load(exported / "model.gguf")
    assert again.vocab.special_tokens == tokenizer.vocab.special_tokens
    assert again.eot_token == tokenizer.eot_token
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.AutoTokenizer.from_pretrained(exported, gguf_file="model.gguf")
    for text in TEXTS:
        ids = tokenizer.encode(text, allowed_special="all")
        assert again.encode(text, allowed_special="all") == theirs(text)["input_ids"] == ids


def test_a_file_without_a_tokenizer_says_that_it_has_none(tmp_path: Path) -> None:
    export_gguf(model_of(60), None, tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert [key for key in fields if key.startswith("tokenizer.")] == ["tokenizer.ggml.model"]
    assert fields["tokenizer.ggml.model"].contents() == "none"
    with pytest.raises(FormatError, match=r"tokenizer.ggml.model must be 'gpt2'"):
        bpetok.load(tmp_path / "m.gguf")


def test_a_run_is_exported_by_the_outputs_name(tmp_path: Path, small_run: Callable[..., Config]) -> None:
    from lm.train import train

    train(small_run(steps=1), tmp_path / "run")
    done = export_run(tmp_path / "run", tmp_path / "m.gguf", dtype="float16", tokenizer=False)
    assert (done.format, done.tokenizer, done.bytes) == ("gguf", False, (tmp_path / "m.gguf").stat().st_size)
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["general.name"].contents() == "run"


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (tokenizer_of("gpt4"), r"no GGUF pre-tokenizer is this function: gpt4\nhint: the patterns .* gpt2, ll"),
        (BYTES, r"the vocabulary must be a tokenizer's, got characters or bytes"),
        (Alphabet.of_text("abc\n"), r"the vocabulary must be a tokenizer's, got characters or bytes"),
        (bpetok.Tokenizer(bpetok.Vocab({bytes([b]): b for b in range(256)}, {}, "gpt2")), r"a merge or more, got none"),
    ],
)
def test_a_vocabulary_that_the_format_cannot_hold_is_refused_with_the_way_out(
    tmp_path: Path, vocabulary: bpetok.Tokenizer | Alphabet, message: str
) -> None:
    with pytest.raises(FormatError, match=message + r"(.|\n)*--no-tokenizer .*writes the weights alone") as caught:
        export_gguf(model_of(vocabulary.n_vocab), vocabulary, tmp_path / "m.gguf")
    assert str(caught.value).startswith("gguf: ") and "tokenizer.gguf" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(60)
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[0, 0] = 1e5
    with pytest.raises(NonFiniteError, match=r"blk.0.attn_qkv.weight must be finite as float16"):
        export_gguf(model, None, tmp_path / "m.gguf", dtype=torch.float16)

    def full(self: object, *args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError, match="No space left"):
        export_gguf(model, None, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_another_rung_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(FormatError, match=r"m.gguf: must not be there yet, but is"):
        export_gguf(model_of(60), None, tmp_path / "m.gguf")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match=r"folder: must be a file's name, got a folder"):
        export_gguf(model_of(60), None, tmp_path / "folder")
    mlp = MLP(MLPConfig(context=8, window=3, embedding=4, hidden=16), 60)
    with pytest.raises(IncompatibleError, match=r"must be of the rung gpt2, got MLP"):
        export_gguf(mlp, None, tmp_path / "new.gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"


def test_without_the_package_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"bpetok\[gguf\]"):
        export_gguf(model_of(60), None, tmp_path / "m.gguf")


def test_the_tensors_share_what_needs_no_conversion() -> None:
    model = model_of(64)
    tensors = to_gguf(model)
    assert tensors["blk.0.attn_qkv.weight"].data_ptr() == model.blocks[0].attention.qkv.weight.data_ptr()
    assert not any(tensor.requires_grad for tensor in tensors.values())
