import json
from pathlib import Path

import pytest
import torch

from bpetok.errors import FormatError, IncompatibleError
from lm.huggingface import from_huggingface, load_pretrained, save_pretrained, to_huggingface
from lm.models.gpt2 import GPT2, GPT2Config

transformers = pytest.importorskip("transformers", reason="transformers is not installed: no twin to compare with")

CONFIG = GPT2Config(context=16, layers=2, heads=4, width=32)
V = 70
IDS_BT = torch.randint(V, (2, 16), generator=torch.Generator().manual_seed(5))


def their_model() -> torch.nn.Module:
    """A GPT2LMHeadModel with random weights everywhere, biases and norms too."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=V, n_positions=16, n_embd=32, n_layer=2, n_head=4)
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
