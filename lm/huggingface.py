"""GPT-2's weights under Hugging Face's names, both ways, so that either library runs what the other trained.

Two things differ beside the names. OpenAI's code, and so Hugging Face's `Conv1D`, keeps the matrices of the
linear layers as (in, out), torch as (out, in): they are transposed. And we pad the vocabulary inside, they do
not: the padding is cut off on the way out and put back as zeros on the way in.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from bpetok.errors import FormatError, IncompatibleError
from lm.models.gpt2 import GPT2, GPT2Config

_OUTSIDE = {
    "token_embedding.weight": "wte.weight",
    "position_embedding.weight": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
_IN_BLOCK = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.project": "attn.c_proj",
    "feedforward_norm": "ln_2",
    "feedforward.expand": "mlp.c_fc",
    "feedforward.project": "mlp.c_proj",
}
# What GPT2 is by construction; a checkpoint that says otherwise is another model.
_FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "n_inner": None,
}


def to_huggingface(state: Mapping[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """The weights of a `GPT2` by the names of `transformers.GPT2LMHeadModel`, without the padded rows.

    Args:
        state: `model.state_dict()`.
        vocab_size: V, the real rows of the embedding.
    """
    layers = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("blocks.")), default=-1)
    theirs = {}
    for ours, (name, transposed) in _names(layers).items():
        tensor = state[ours]
        if ours == "token_embedding.weight":
            tensor = tensor[:vocab_size]
        theirs[f"transformer.{name}"] = (tensor.t() if transposed else tensor).contiguous()
    return theirs


def from_huggingface(tensors: Mapping[str, Tensor], config: GPT2Config, vocab_size: int) -> dict[str, Tensor]:
    """The weights of a `GPT2` from those of a `GPT2LMHeadModel` or a bare `GPT2Model`.

    Args:
        tensors: by their names, with or without `transformer.` before them. The tied `lm_head.weight` and the
            constant masks (`attn.bias`, `attn.masked_bias`) of old files are passed over.
        config: of the model to fill.
        vocab_size: V, the rows that their embedding must have.

    Returns:
        what `GPT2(config, vocab_size).load_state_dict` takes.

    Raises:
        FormatError: if a tensor is missing.
        IncompatibleError: if their embedding has another number of rows, or they have a tensor that GPT2 has
            not.
    """
    unread = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    ours = {}
    for name, (theirs, transposed) in _names(config.layers).items():
        if theirs not in unread:
            raise FormatError(f"huggingface: {theirs} must be among the tensors, got none of that name")
        tensor = unread.pop(theirs)
        ours[name] = (tensor.t() if transposed else tensor).contiguous()
    known = (
        "lm_head.weight",
        *(f"h.{i}.attn.{mask}" for i in range(config.layers) for mask in ("bias", "masked_bias")),
    )
    extra = sorted(unread.keys() - set(known))
    if extra:
        raise IncompatibleError(f"huggingface: tensors must be those of GPT-2, got {extra[0]} as well")
    rows = ours["token_embedding.weight"].shape[0]
    if rows != vocab_size:
        raise IncompatibleError(f"huggingface: wte.weight must have {vocab_size} rows, got {rows}")
    padding = -vocab_size % config.vocab_multiple
    ours["token_embedding.weight"] = F.pad(ours["token_embedding.weight"], (0, 0, 0, padding))
    return ours


def save_pretrained(model: GPT2, folder: Path) -> None:
    """Writes `config.json` and `model.safetensors`, as `GPT2LMHeadModel.from_pretrained(folder)` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    document = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": model.vocab_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout),
        **_FIXED,
    }
    (folder / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    tensors = to_huggingface(model.state_dict(), model.vocab_size)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_pretrained(folder: Path) -> GPT2:
    """The GPT-2 of a folder with `config.json` and `model.safetensors`, in eval mode.

    Raises:
        FormatError: if a file is missing or not what its name says.
        IncompatibleError: if it is another model, or a GPT-2 with a part that ours has not.
    """
    document = _read_config(folder / "config.json")
    try:
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        message = f"{folder / 'model.safetensors'}: must be a safetensors file, got {error}"
        raise FormatError(message, hint="save it with safe_serialization=True; pickled weights are not read") from error
    config = GPT2Config(
        context=document["n_positions"],
        layers=document["n_layer"],
        heads=document["n_head"],
        width=document["n_embd"],
        dropout=document.get("resid_pdrop", 0.1),
    )
    model = GPT2(config, document["vocab_size"])
    model.load_state_dict(from_huggingface(tensors, config, document["vocab_size"]))
    return model.eval()


def _names(layers: int) -> dict[str, tuple[str, bool]]:
    """Our name -> (theirs without the prefix, whether it is transposed), for every tensor."""
    names = {ours: (theirs, False) for ours, theirs in _OUTSIDE.items()}
    for layer in range(layers):
        for ours, theirs in _IN_BLOCK.items():
            for part in ("weight", "bias"):
                matrix = part == "weight" and not ours.endswith("norm")
                names[f"blocks.{layer}.{ours}.{part}"] = (f"h.{layer}.{theirs}.{part}", matrix)
    return names


def _read_config(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: must be a JSON file, got {error}") from error
    if document.get("model_type") != "gpt2":
        raise IncompatibleError(f"{path}: model_type must be gpt2, got {document.get('model_type')}")
    for key in ("n_positions", "n_layer", "n_head", "n_embd", "vocab_size"):
        if not isinstance(document.get(key), int):
            raise FormatError(f"{path}: {key} must be an integer, got {document.get(key)}")
    for key, wanted in _FIXED.items():
        # n_inner is also written out where it is the usual 4 * width.
        usual = key == "n_inner" and document.get(key) == 4 * document["n_embd"]
        if document.get(key, wanted) != wanted and not usual:
            raise IncompatibleError(f"{path}: {key} must be {wanted}, got {document[key]}")
    return document
