"""GGUF, the model files of llama.cpp: a GPT-2 with its tokenizer in one file.

The layout is that of llama.cpp's own converter: the architecture `gpt2`, its sizes as fields, and the tensors under
ggml's names with their matrices as (out, in), which is torch's own order, so nothing is transposed. The head is left
out: llama.cpp takes the embedding where there is none. Vectors and the position embedding stay in float32 whatever the
type of the matrices is, as there. The file is written by the `gguf` package, the tokenizer's fields by
`bpetok.formats.gguf`, which refuses a split pattern that llama.cpp has no function for.

`transformers` reads such a file too; it takes the context for 1,024 whatever the file says, so a shorter or longer one
loads there with a config of its own (`n_positions`) alone.

Sources: ggml-org/llama.cpp, `conversion/gpt2.py` and `gguf-py`; ggml-org/ggml, `docs/gguf.md`, 2026.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bpetok
from bpetok import formats
from bpetok.errors import FormatError, MissingExtraError
from bpetok.formats.probe import proven
from lm.alphabet import Vocabulary
from lm.export import require_free, require_gpt2, without_tokenizer
from lm.huggingface import require_finite
from lm.models.contract import LanguageModel
from lm.models.gpt2 import GPT2

ARCHITECTURE = "gpt2"
_OUTSIDE = {
    "token_embedding": "token_embd",
    "position_embedding": "position_embd",
    "norm": "output_norm",
}
_IN_BLOCK = {
    "attention_norm": "attn_norm",
    "attention.qkv": "attn_qkv",
    "attention.project": "attn_output",
    "feedforward_norm": "ffn_norm",
    "feedforward.expand": "ffn_up",
    "feedforward.project": "ffn_down",
}
_TOKENIZER_KEY = "tokenizer.ggml."
# ggml's file types by ours: what most of the matrices are.
_FILE_TYPES = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}


def export_gguf(
    model: LanguageModel,
    vocabulary: Vocabulary | None,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    name: str = "lm",
) -> None:
    """Writes a GGUF file that llama.cpp loads, whole or not at all.

    Args:
        model: a `GPT2`, on any device.
        vocabulary: of its ids; None to write a file without a tokenizer, which takes ids alone.
        path: the file to make; nothing may be there.
        dtype: of the matrices: float32, float16 or bfloat16.
        name: what the file calls the model.

    Raises:
        FormatError: if something is at the path, or the format cannot hold the vocabulary.
        IncompatibleError: if the model is of another rung, or has another number of ids than the vocabulary.
        NonFiniteError: if a weight is not finite in the dtype.
        MissingExtraError: if the `gguf` package is not installed.
    """
    gpt2 = require_gpt2(model, vocabulary)
    require_free(path)
    if path.is_dir():
        raise FormatError(f"{path}: must be a file's name, got a folder", hint="name a file in it")
    library = _library()
    fields = _tokenizer_fields(vocabulary, library)
    tensors = to_gguf(gpt2, dtype)
    require_finite(tensors, dtype)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with proven(path) as written:
        writer = library.GGUFWriter(written, ARCHITECTURE)
        try:
            _add_model(writer, library, gpt2, dtype, name)
            for key, (value, kind) in fields.items():
                writer.add_key_value(key, value, kind)
            for tensor_name, tensor in tensors.items():
                _add_tensor(writer, library, tensor_name, tensor)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        _prove(written, vocabulary, path)


def to_gguf(model: GPT2, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The weights of a model by ggml's names, on the CPU and without the padded rows.

    Args:
        model: whose weights.
        dtype: of the matrices; vectors and the position embedding are float32.

    >>> from lm.models.gpt2 import GPT2Config
    >>> tensors = to_gguf(GPT2(GPT2Config(context=8, layers=1, heads=2, width=4), vocab_size=10), torch.float16)
    >>> tensors["token_embd.weight"].shape, tensors["blk.0.attn_qkv.weight"].dtype, tensors["output_norm.bias"].dtype
    (torch.Size([10, 4]), torch.float16, torch.float32)
    """
    theirs = {}
    for name, tensor in model.state_dict().items():
        ours, _, part = name.rpartition(".")
        if ours == "token_embedding":
            tensor = tensor[: model.vocab_size]
        if ours.startswith("blocks."):
            _, layer, within = ours.split(".", 2)
            prefix = f"blk.{layer}.{_IN_BLOCK[within]}"
        else:
            prefix = _OUTSIDE[ours]
        matrix = tensor.dim() == 2 and ours != "position_embedding"
        theirs[f"{prefix}.{part}"] = tensor.detach().to("cpu", dtype if matrix else torch.float32).contiguous()
    return theirs


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf") from error
    return gguf


def _add_model(writer: Any, library: Any, model: GPT2, dtype: torch.dtype, name: str) -> None:
    config = model.config
    writer.add_name(name)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(4 * config.width)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_eps(model.norm.eps)
    writer.add_vocab_size(model.vocab_size)
    writer.add_file_type(library.LlamaFileType[_FILE_TYPES[dtype]])


def _add_tensor(writer: Any, library: Any, name: str, tensor: Tensor) -> None:
    if tensor.dtype == torch.bfloat16:  # numpy has no such numbers: their bytes go, and their type beside them
        bytes_ = tensor.view(torch.uint8).numpy()
        writer.add_tensor(name, bytes_, raw_dtype=library.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.numpy())


def _tokenizer_fields(vocabulary: Vocabulary | None, library: Any) -> dict[str, tuple[Any, Any]]:
    """Key -> (value, GGUF's type): what `bpetok` writes of the vocabulary, and proves."""
    if vocabulary is None:
        return {f"{_TOKENIZER_KEY}model": ("none", library.GGUFValueType.STRING)}
    if not isinstance(vocabulary, bpetok.Tokenizer):
        raise FormatError(
            "gguf: the vocabulary must be a tokenizer's, got characters or bytes", hint=without_tokenizer()
        )
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "tokenizer.gguf"
        try:
            formats.write(vocabulary.vocab, alone)
        except FormatError as error:
            message = error.message.replace(f"{alone}", "gguf")
            raise FormatError(message, hint=without_tokenizer(error.hint)) from error
        reader = library.GGUFReader(alone)
        fields = {
            key: (field.contents(), field.types[0])
            for key, field in reader.fields.items()
            if key.startswith(_TOKENIZER_KEY)
        }
        del reader  # which maps the file
    if not vocabulary.vocab.ranks.keys() - {bytes([byte]) for byte in range(256)}:
        raise FormatError("gguf: the vocabulary must have a merge or more, got none", hint=without_tokenizer())
    return fields


def _prove(written: Path, vocabulary: Vocabulary | None, path: Path) -> None:
    """The tokenizer in the written file is the one that the vocabulary alone would be read back as."""
    if not isinstance(vocabulary, bpetok.Tokenizer):
        return
    again = bpetok.load(written)
    if again.vocab.special_tokens != vocabulary.vocab.special_tokens or again.vocab.ranks != vocabulary.vocab.ranks:
        raise FormatError(f"{path}: must hold the tokenizer that was given, got another one when it was read again")
