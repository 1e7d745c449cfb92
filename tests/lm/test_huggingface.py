"""Hugging Face's folders of GPT-2: the same logits in either library, and a typed error for all that is not GPT-2."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import bpetok
from bpetok import formats
from bpetok.errors import FormatError, IncompatibleError, MissingExtraError, UnavailableError
from lm.alphabet import BYTES
from lm.errors import ConfigError, NonFiniteError
from lm.huggingface import (
    from_huggingface,
    gpt2_config_of,
    initial_weights,
    is_pretrained,
    load_model,
    load_pretrained,
    load_tokenizer,
    pretrained_folder,
    require_same_tokens,
    save_pretrained,
    to_huggingface,
)
from lm.models.gpt2 import GPT2, GPT2Config

transformers = pytest.importorskip("transformers", reason="transformers is not installed: no twin to compare with")

CONFIG = GPT2Config(context=16, layers=2, heads=4, width=32)
V = 70
IDS_BT = torch.randint(V, (2, 16), generator=torch.Generator().manual_seed(5))


def their_model(config: GPT2Config = CONFIG, vocab_size: int = V) -> torch.nn.Module:
    """A GPT2LMHeadModel with random weights everywhere, biases and norms too."""
    torch.manual_seed(0)
    sizes = {"n_positions": config.context, "n_embd": config.width, "n_layer": config.layers, "n_head": config.heads}
    ends = {"bos_token_id": None, "eos_token_id": None}  # theirs are those of 50,257 ids
    config = transformers.GPT2Config(vocab_size=vocab_size, **sizes, **ends)
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def our_model() -> GPT2:
    torch.manual_seed(1)
    model = GPT2(CONFIG, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.token_embedding.weight[V:].zero_()
    return model.eval()


def test_their_weights_give_their_logits_in_our_model() -> None:
    theirs, ours = their_model(), GPT2(CONFIG, V).eval()
    ours.load_state_dict(from_huggingface(theirs.state_dict(), CONFIG, V))
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS_BT), theirs(IDS_BT).logits, rtol=0, atol=1e-5)


def test_our_weights_give_our_logits_in_their_model(tmp_path: Path) -> None:
    ours = our_model()
    save_pretrained(ours, tmp_path / "export")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "export").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS_BT).logits, ours(IDS_BT), rtol=0, atol=1e-5)


def test_a_folder_that_they_saved_is_read(tmp_path: Path) -> None:
    theirs = their_model()
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load_pretrained(tmp_path)(IDS_BT), theirs(IDS_BT).logits, rtol=0, atol=1e-5)


def test_there_and_back_every_tensor_is_the_same(tmp_path: Path) -> None:
    ours = our_model()
    save_pretrained(ours, tmp_path)
    again = load_pretrained(tmp_path)
    assert again.config == CONFIG
    assert all(torch.equal(again.state_dict()[name], value) for name, value in ours.state_dict().items())


def test_old_files_without_prefix_and_with_masks_are_read() -> None:
    tensors = {
        name.removeprefix("transformer."): value for name, value in to_huggingface(our_model().state_dict(), V).items()
    }
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    again = from_huggingface(tensors, CONFIG, V)
    assert all(torch.equal(again[name], value) for name, value in our_model().state_dict().items())


def test_tensors_that_are_missing_strange_or_of_another_vocabulary_are_refused() -> None:
    tensors = to_huggingface(our_model().state_dict(), V)
    with pytest.raises(IncompatibleError, match=rf"wte.weight must have 71 rows, got {V}"):
        from_huggingface(tensors, CONFIG, V + 1)
    with pytest.raises(IncompatibleError, match=r"tensors must be those of GPT-2, got h.0.q_norm as well"):
        from_huggingface(tensors | {"transformer.h.0.q_norm": torch.ones(1)}, CONFIG, V)
    del tensors["transformer.ln_f.bias"]
    with pytest.raises(FormatError, match=r"ln_f.bias must be among the tensors"):
        from_huggingface(tensors, CONFIG, V)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model_type": "llama"}, IncompatibleError, r"config.json: model_type must be gpt2, got llama"),
        ({"activation_function": "relu"}, IncompatibleError, r"activation_function must be gelu_new, got relu"),
        ({"n_inner": 64}, IncompatibleError, r"n_inner must be None, got 64"),
        ({"n_layer": "2"}, FormatError, r"n_layer must be an integer, got 2"),
    ],
)
def test_a_folder_of_another_model_is_refused(
    tmp_path: Path, change: dict[str, object], kind: type[Exception], message: str
) -> None:
    save_pretrained(our_model(), tmp_path)
    document = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(document | {"n_inner": 4 * 32}), encoding="utf-8")
    load_pretrained(tmp_path)  # the usual width, written out
    (tmp_path / "config.json").write_text(json.dumps(document | change), encoding="utf-8")
    with pytest.raises(kind, match=message):
        load_pretrained(tmp_path)


def test_a_folder_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"config.json: must be a JSON file, got "):
        load_pretrained(tmp_path)
    save_pretrained(our_model(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"pickle?")
    with pytest.raises(FormatError, match=r"model.safetensors: must be a safetensors file, got .*\n?.*hint: save it"):
        load_pretrained(tmp_path)


# ---- logits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "vocab_size"),
    [
        (GPT2Config(context=5, layers=1, heads=1, width=8), 7),
        (GPT2Config(context=33, layers=3, heads=2, width=48), 130),
        (GPT2Config(context=64, layers=2, heads=8, width=64, vocab_multiple=1), 64),
        (GPT2Config(context=20, layers=5, heads=5, width=40, vocab_multiple=48), 97),
    ],
)
def test_a_thousand_positions_have_their_logits_and_their_likeliest_id(
    tmp_path: Path, config: GPT2Config, vocab_size: int
) -> None:
    theirs = their_model(config, vocab_size)
    theirs.save_pretrained(tmp_path)
    rows = -(-1000 // config.context)
    ids_BT = torch.randint(vocab_size, (rows, config.context), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        ours_BTV, theirs_BTV = load_pretrained(tmp_path)(ids_BT), theirs(ids_BT).logits
    torch.testing.assert_close(ours_BTV, theirs_BTV, rtol=0, atol=1e-5)
    assert torch.equal(ours_BTV.argmax(2), theirs_BTV.argmax(2))


def assert_reads_as(folder: Path, theirs: torch.nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(load_pretrained(folder)(IDS_BT), theirs(IDS_BT).logits, rtol=0, atol=1e-5)


def test_a_folder_in_shards_is_read(tmp_path: Path) -> None:
    theirs = their_model()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-0*.safetensors"))) > 3 and not (tmp_path / "model.safetensors").exists()
    assert_reads_as(tmp_path, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_read_as_the_same_numbers_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = their_model().to(dtype)
    theirs.save_pretrained(tmp_path)
    assert safetensors.torch.load_file(tmp_path / "model.safetensors")["transformer.wte.weight"].dtype == dtype
    assert {tensor.dtype for tensor in load_pretrained(tmp_path).state_dict().values()} == {torch.float32}
    assert_reads_as(tmp_path, theirs.float())


def test_a_head_that_is_the_embedding_is_passed_over_and_another_one_is_refused() -> None:
    tensors = to_huggingface(our_model().state_dict(), V)
    head_VC = tensors["transformer.wte.weight"].clone()
    again = from_huggingface({"lm_head.weight": head_VC, **tensors}, CONFIG, V)
    assert all(torch.equal(again[name], value) for name, value in our_model().state_dict().items())
    head_VC[3, 3] += 1
    with pytest.raises(IncompatibleError, match=r"lm_head.weight must be wte.weight, to which it is tied, got another"):
        from_huggingface({"lm_head.weight": head_VC, **tensors}, CONFIG, V)


def test_loading_draws_no_number_and_holds_no_file(tmp_path: Path) -> None:
    ours = our_model()
    save_pretrained(ours, tmp_path)
    before = torch.get_rng_state()
    again = load_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    size = (tmp_path / "model.safetensors").stat().st_size
    with open(tmp_path / "model.safetensors", "rb+") as file:  # the very file, not another of its name
        file.write(bytes(size))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in ours.state_dict().items())
    assert all(parameter.requires_grad for parameter in again.parameters()) and not again.training


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_tensors_of_another_shape_type_or_depth_are_refused() -> None:
    tensors = to_huggingface(our_model().state_dict(), V)
    name = "transformer.h.1.attn.c_attn.weight"
    for wrong in (tensors[name].t(), tensors[name].to(torch.int32), tensors[name].to(torch.float8_e5m2)):
        with pytest.raises(FormatError, match=r"h.1.attn.c_attn.weight must be \[32, 96\] of float32, float16 or bf"):
            from_huggingface(tensors | {name: wrong}, CONFIG, V)
    for layers in (1, 3, 10**12):
        deeper = dataclasses.replace(CONFIG, layers=layers)
        with pytest.raises(FormatError, match=rf"must be of {layers} layers, as the config says, got 2"):
            from_huggingface(tensors, deeper, V)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"config.json: must be a JSON object, got an array"),
        ("{", r"config.json:1: must be a JSON document"),
        ('{"model_type": "gpt2", "n_positions": true}', r"n_positions must be an integer, got True"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        gpt2_config_of(tmp_path)


def test_a_config_says_the_sizes_and_the_dropout(tmp_path: Path) -> None:
    save_pretrained(GPT2(dataclasses.replace(CONFIG, dropout=0.25), V), tmp_path)
    assert gpt2_config_of(tmp_path) == dataclasses.replace(CONFIG, dropout=0.25)
    document = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(document | {"resid_pdrop": "much"}))
    with pytest.raises(FormatError, match=r"resid_pdrop must be a number, got 'much'"):
        gpt2_config_of(tmp_path)


def edit_index(folder: Path, edit: Callable[[dict[str, object]], object]) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    edit(index["weight_map"])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", "..", 3])
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path, name: object) -> None:
    their_model().save_pretrained(tmp_path, max_shard_size="20KB")
    edit_index(tmp_path, lambda places: places.update({"transformer.wte.weight": name}))
    with pytest.raises(FormatError, match=r"wte.weight must lie in a .safetensors file of this folder, got "):
        load_pretrained(tmp_path)


def test_an_index_whose_shards_are_not_what_it_says_is_refused(tmp_path: Path) -> None:
    their_model().save_pretrained(tmp_path, max_shard_size="20KB")
    edit_index(tmp_path, lambda places: places.update({"more": places["transformer.wte.weight"]}))
    with pytest.raises(FormatError, match=r"more must be in model-0.*, got none of that name"):
        load_pretrained(tmp_path)
    edit_index(tmp_path, lambda places: places.pop("more"))
    load_pretrained(tmp_path)
    next(iter(tmp_path.glob("model-00002*"))).unlink()
    with pytest.raises(FormatError, match=r"model-00002-of-.*: must be a safetensors file, got "):
        load_pretrained(tmp_path)


def test_weights_that_float16_cannot_hold_are_not_written(tmp_path: Path) -> None:
    model = our_model()
    with torch.no_grad():
        model.norm.weight[3] = 1e5
    with pytest.raises(NonFiniteError, match=r"transformer.ln_f.weight must be finite as float16.*\nhint: bfloat16"):
        save_pretrained(model, tmp_path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    save_pretrained(model, tmp_path, dtype=torch.bfloat16)


# ---- names -------------------------------------------------------------------------------------------------------


def test_a_folder_is_itself_and_what_is_neither_folder_nor_name_is_refused(tmp_path: Path) -> None:
    assert pretrained_folder(tmp_path) == pretrained_folder(str(tmp_path)) == tmp_path
    assert not is_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"must be a folder or one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, got 'g"):
        pretrained_folder("gpt3")


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl", "openai-community/gpt2-medium"])
def test_a_name_is_downloaded_without_the_weights_other_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import fnmatch

    import huggingface_hub

    on_the_hub = ["64.tflite", "config.json", "flax_model.msgpack", "merges.txt", "model.safetensors", "vocab.json"]
    on_the_hub += ["onnx/config.json", "onnx/decoder_model.onnx", "pytorch_model.bin", "tf_model.h5", "tokenizer.json"]

    def stand_in(repository: str, *, allow_patterns: list[str]) -> str:
        assert repository == f"openai-community/{name.split('/')[-1]}"
        taken = [one for one in on_the_hub if any(fnmatch.fnmatch(one, pattern) for pattern in allow_patterns)]
        assert taken == ["config.json", "merges.txt", "model.safetensors", "vocab.json", "tokenizer.json"]
        save_pretrained(our_model(), tmp_path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stand_in)
    assert pretrained_folder(name) == tmp_path and is_pretrained(tmp_path)


def test_a_download_of_which_a_part_is_there_offline_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnavailableError, match=r"openai-community/gpt2: the weights are not on this machine"):
        pretrained_folder("gpt2")


def test_the_hub_is_imported_for_a_name_alone_and_offline_its_error_is_ours(tmp_path: Path) -> None:
    script = "import sys, lm.export, lm.huggingface; print({'huggingface_hub', 'gguf'} & sys.modules.keys())\n"
    script += "lm.huggingface.pretrained_folder('gpt2-medium')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n"
    said = done.stderr.splitlines()
    assert any("UnavailableError: openai-community/gpt2-medium: the weights are not on this machine" in x for x in said)
    assert said[-1].startswith("hint: the hub is switched off: HF_HUB_OFFLINE is set; download config.json, model.")


def test_without_the_package_that_downloads_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"hint: pip install huggingface_hub"):
        pretrained_folder("gpt2")


# ---- to begin with -----------------------------------------------------------------------------------------------


def test_a_run_may_begin_with_fewer_positions_than_the_weights_have(tmp_path: Path) -> None:
    theirs = their_model()
    theirs.save_pretrained(tmp_path)
    shorter = dataclasses.replace(CONFIG, context=6, dropout=0.5, vocab_multiple=8)
    model = GPT2(shorter, V).eval()
    model.load_state_dict(initial_weights(tmp_path, shorter, V))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS_BT[:, :6]), theirs(IDS_BT[:, :6]).logits, rtol=0, atol=1e-5)
    assert model.position_embedding.weight.shape == (6, 32) and model.token_embedding.weight.shape == (72, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, r"model.layers must be 2, as the weights' n_layer, got 3\nhint: --set model.layers=2"),
        ({"heads": 2}, r"model.heads must be 4, as the weights' n_head, got 2\nhint: --set model.heads=4"),
        ({"width": 64}, r"model.width must be 32, as the weights' n_embd, got 64\nhint: --set model.width=32"),
        (
            {"context": 17},
            r"model.context must be at most 16, the w.*, got 17\nhint: --set model.context=16",
        ),
    ],
)
def test_a_size_that_differs_is_refused_with_the_setting_that_helps(
    tmp_path: Path, change: dict[str, int], message: str
) -> None:
    save_pretrained(our_model(), tmp_path)
    with pytest.raises(IncompatibleError, match=message):
        initial_weights(tmp_path, dataclasses.replace(CONFIG, **change), V)


@pytest.mark.parametrize("vocab_size", [V - 1, V + 1])
def test_another_number_of_ids_is_refused(tmp_path: Path, vocab_size: int) -> None:
    save_pretrained(our_model(), tmp_path)
    with pytest.raises(IncompatibleError, match=rf"must have {V} ids, as .*, got {vocab_size}\nhint: set"):
        initial_weights(tmp_path, CONFIG, vocab_size)


# ---- with a tokenizer --------------------------------------------------------------------------------------------

TEXTS = ["The 12 cats sat on 345 mats, and dogs didn't.\n", "Größe, naïve: 日本 🙂\n  x", "a<|endoftext|>b"]


def tokenizer_of(pattern: str = "gpt2", vocab_size: int = 290) -> bpetok.Tokenizer:
    return bpetok.train(TEXTS * 3, vocab_size=vocab_size, pattern=pattern, special_tokens=["<|endoftext|>"])


def model_of(rows: int) -> GPT2:
    torch.manual_seed(2)
    return GPT2(CONFIG, rows).eval()


def test_a_folder_with_its_tokenizer_is_read_as_a_model_and_its_ids(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("gpt4")
    save_pretrained(model_of(tokenizer.n_vocab), tmp_path)
    formats.write(tokenizer.vocab, tmp_path, format="huggingface")
    model, again = load_model(tmp_path, torch.device("cpu"))
    assert [again.encode(text, allowed_special="all") for text in TEXTS] == [
        tokenizer.encode(text, allowed_special="all") for text in TEXTS
    ]
    assert torch.equal(model(IDS_BT), model_of(tokenizer.n_vocab)(IDS_BT)) and not model.training


def test_openais_pair_of_files_is_a_tokenizer_too(tmp_path: Path) -> None:
    tokenizer = tokenizer_of()
    formats.write(tokenizer.vocab, tmp_path / "tokenizer.json")
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").unlink()
    table, merges = document["model"]["vocab"], [" ".join(pair) for pair in document["model"]["merges"]]
    table["<|endoftext|>"] = tokenizer.eot_token
    (tmp_path / "vocab.json").write_text(json.dumps(table))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    again = load_tokenizer(tmp_path)
    assert again.eot_token == tokenizer.eot_token
    theirs = transformers.GPT2Tokenizer(vocab=table, merges=[tuple(merge.split(" ")) for merge in merges])
    for text in TEXTS:
        ids = again.encode(text, allowed_special="all")
        assert ids == tokenizer.encode(text, allowed_special="all") == theirs(text)["input_ids"]
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ nothing\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"merges.txt:2: must be two tokens and a blank between, got 'Ġ nothing'"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": "1"}')
    with pytest.raises(FormatError, match=r"vocab.json: 'a' must have an id, got '1'"):
        load_tokenizer(tmp_path)


def test_rows_that_stand_for_no_id_are_cut_off(tmp_path: Path) -> None:
    tokenizer = tokenizer_of()
    theirs = their_model(CONFIG, 320)  # as nanoGPT's embedding, which is larger than its tokenizer
    theirs.save_pretrained(tmp_path)
    formats.write(tokenizer.vocab, tmp_path, format="huggingface")
    model, _ = load_model(tmp_path, torch.device("cpu"))
    with torch.no_grad():
        wanted_BTV = theirs(IDS_BT).logits[..., : tokenizer.n_vocab]
        torch.testing.assert_close(model(IDS_BT), wanted_BTV, rtol=0, atol=1e-5)
    run = GPT2(CONFIG, tokenizer.n_vocab).eval()
    run.load_state_dict(initial_weights(tmp_path, CONFIG, tokenizer.n_vocab))
    assert torch.equal(run(IDS_BT), model(IDS_BT))
    with pytest.raises(IncompatibleError, match=r"must have 291 ids, as the weights have, got 292"):
        initial_weights(tmp_path, CONFIG, 292)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path: Path) -> None:
    save_pretrained(model_of(289), tmp_path)
    formats.write(tokenizer_of().vocab, tmp_path, format="huggingface")
    with pytest.raises(IncompatibleError, match=r"wte.weight must have 291 rows, got 289"):
        load_model(tmp_path, torch.device("cpu"))


def test_a_folder_without_a_tokenizer_says_what_it_lacks(tmp_path: Path) -> None:
    save_pretrained(our_model(), tmp_path)
    with pytest.raises(FormatError, match=r"must hold tokenizer.json, or vocab.json and merges.txt, got no tokenizer"):
        load_model(tmp_path, torch.device("cpu"))


def test_ids_that_stand_for_other_tokens_than_the_weights_are_refused(tmp_path: Path) -> None:
    require_same_tokens(tmp_path, BYTES)  # nothing there to compare with
    tokenizer = tokenizer_of()
    formats.write(tokenizer.vocab, tmp_path, format="huggingface")
    require_same_tokens(tmp_path, tokenizer)
    other = bpetok.train(["xyz xyz " * 9, *TEXTS], vocab_size=290, pattern="gpt2", special_tokens=["<|endoftext|>"])
    assert other.n_vocab == tokenizer.n_vocab
    with pytest.raises(IncompatibleError, match=r"stand for what they do .*, got another token for id 256\nhint: set"):
        require_same_tokens(tmp_path, other)
    with pytest.raises(IncompatibleError, match=r"the run's ids must be tokens, got characters or bytes"):
        require_same_tokens(tmp_path, BYTES)
