"""GPT-2's weights as Hugging Face keeps them, both ways, so that either library runs what the other trained.

A folder is what `transformers` reads and writes: `config.json`, the weights in `model.safetensors` or in several such
files with an index, and the tokenizer beside them. Two things differ beside the names of the tensors. OpenAI's code,
and so Hugging Face's `Conv1D`, keeps the matrices of the linear layers as (in, out), torch as (out, in): they are
transposed. And we pad the vocabulary inside, they do not: the padding is cut off on the way out and put back as
zeros on the way in.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

import bpetok
from bpetok.errors import FormatError, IncompatibleError, MissingExtraError, UnavailableError
from bpetok.files import give_usual_mode, partial, publish, write_atomically
from bpetok.formats import documents
from lm.alphabet import Vocabulary
from lm.errors import ConfigError, NonFiniteError
from lm.models.gpt2 import GPT2, GPT2Config

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, PAIR = "tokenizer.json", ("vocab.json", "merges.txt")
OWNER = "openai-community"
NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""OpenAI's four sizes, by their names on the hub."""
FILES = (CONFIG, WEIGHTS, INDEX, "model-*.safetensors", TOKENIZER, "tokenizer_config.json", *PAIR)
"""What is downloaded of them: the hub has the same weights in five formats more."""

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
# What GPT2 is by construction; a checkpoint that says otherwise is another model. The first value is written.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "n_inner": (None,),
}
_READ_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


# ---- folders and names -------------------------------------------------------------------------------------------


def pretrained_folder(name_or_folder: str | Path) -> Path:
    """The folder that a path stands for, or that holds OpenAI's weights of a size, downloaded at the first time.

    Args:
        name_or_folder: a folder; or one of `NAMES`, with or without `openai-community/` before it. A folder that is
            there goes before a name.

    Raises:
        ConfigError: if it is neither.
        UnavailableError: if the weights are not on this machine and cannot be downloaded.
        MissingExtraError: if huggingface_hub, which downloads, is not installed.

    Cost: 0.5 GB for gpt2, 1.5, 3.2 and 6.4 GB for the larger ones, kept where huggingface_hub keeps its files.
    """
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    name = str(name_or_folder).removeprefix(f"{OWNER}/")
    if name not in NAMES:
        raise ConfigError(
            f"pretrained: weights must be a folder or one of {', '.join(NAMES)}, got {str(name_or_folder)!r}",
            hint="download other models first, and name their folder",
        )
    return _download(f"{OWNER}/{name}")


def is_pretrained(folder: Path) -> bool:
    """Whether a folder holds a model as Hugging Face keeps it, and not a run of ours."""
    return (folder / CONFIG).is_file()


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(
            "lm", hint="pip install huggingface_hub; or download it, and name the folder"
        ) from error
    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(FILES)))
    except Exception as error:  # requests, httpx and the hub raise many kinds
        raise _unavailable(repository, f"{error!s:.300}") from error
    if not is_pretrained(folder) or not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise _unavailable(repository, f"{folder} holds no weights")  # offline, a part of them counts as all
    return folder


def _unavailable(repository: str, why: str) -> UnavailableError:
    off = "the hub is switched off: HF_HUB_OFFLINE is set; " if os.environ.get("HF_HUB_OFFLINE") else ""
    return UnavailableError(
        f"{repository}: the weights are not on this machine and could not be downloaded: {why}",
        hint=f"{off}download {CONFIG}, {WEIGHTS} and {TOKENIZER} of it elsewhere, and name their folder",
    )


# ---- names of tensors --------------------------------------------------------------------------------------------


def to_huggingface(
    state: Mapping[str, Tensor], vocab_size: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The weights of a `GPT2` by the names of `transformers.GPT2LMHeadModel`, without the padded rows.

    Args:
        state: `model.state_dict()`.
        vocab_size: V, the real rows of the embedding.
        dtype: what the numbers are written as.
    """
    layers = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("blocks.")), default=-1)
    theirs = {}
    for ours, (name, transposed) in _names(layers).items():
        tensor = state[ours].detach()
        if ours == "token_embedding.weight":
            tensor = tensor[:vocab_size]
        theirs[f"transformer.{name}"] = (tensor.t() if transposed else tensor).to("cpu", dtype).contiguous()
    return theirs


def from_huggingface(tensors: Mapping[str, Tensor], config: GPT2Config, vocab_size: int) -> dict[str, Tensor]:
    """The weights of a `GPT2` from those of a `GPT2LMHeadModel` or a bare `GPT2Model`.

    Args:
        tensors: by their names, with or without `transformer.` before them, in float32, float16 or bfloat16. A tied
            `lm_head.weight` and the constant masks (`attn.bias`, `attn.masked_bias`) of old files are passed over.
        config: of the model to fill.
        vocab_size: V, the rows that their embedding must have.

    Returns:
        what `GPT2(config, vocab_size).load_state_dict` takes, in float32.

    Raises:
        FormatError: if a tensor is missing, or of another shape or type.
        IncompatibleError: if their embedding has another number of rows, their head is not their embedding, or they
            have a tensor that GPT2 has not.
    """
    unread = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    _require_layers(unread, config.layers)
    shapes = _shapes(config, vocab_size)
    ours = {}
    for name, (theirs, transposed) in _names(config.layers).items():
        if theirs not in unread:
            raise FormatError(f"huggingface: {theirs} must be among the tensors, got none of that name")
        tensor = unread.pop(theirs)
        if name == "token_embedding.weight":
            _require_tied(tensor, unread.pop("lm_head.weight", tensor))
            tensor = _padded(tensor, vocab_size, shapes[name][0])
        wanted = shapes[name][::-1] if transposed else shapes[name]
        if tensor.dtype not in _READ_DTYPES or tensor.shape != wanted:
            got = f"{list(tensor.shape)} of {tensor.dtype}"
            raise FormatError(
                f"huggingface: {theirs} must be {list(wanted)} of float32, float16 or bfloat16, got {got}"
            )
        ours[name] = (tensor.t() if transposed else tensor).float().contiguous()
    masks = {f"h.{i}.attn.{mask}" for i in range(config.layers) for mask in ("bias", "masked_bias")}
    if extra := sorted(unread.keys() - masks):
        raise IncompatibleError(f"huggingface: tensors must be those of GPT-2, got {extra[0]} as well")
    return ours


def _names(layers: int) -> dict[str, tuple[str, bool]]:
    """Our name -> (theirs without the prefix, whether it is transposed), for every tensor."""
    names = {ours: (theirs, False) for ours, theirs in _OUTSIDE.items()}
    for layer in range(layers):
        for ours, theirs in _IN_BLOCK.items():
            for part in ("weight", "bias"):
                matrix = part == "weight" and not ours.endswith("norm")
                names[f"blocks.{layer}.{ours}.{part}"] = (f"h.{layer}.{theirs}.{part}", matrix)
    return names


def _shapes(config: GPT2Config, vocab_size: int) -> dict[str, torch.Size]:
    with torch.device("meta"):  # shapes without numbers, and nothing is drawn
        return {name: tensor.shape for name, tensor in GPT2(config, vocab_size).state_dict().items()}


def _require_layers(tensors: Mapping[str, Tensor], layers: int) -> None:
    """Before anything is made that grows with what a file claims."""
    got = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    if got != layers:
        raise FormatError(f"huggingface: the tensors must be of {layers} layers, as the config says, got {got}")


def _require_tied(embedding_VC: Tensor, head_VC: Tensor) -> None:
    if head_VC is not embedding_VC and not torch.equal(embedding_VC, head_VC):
        raise IncompatibleError(
            "huggingface: lm_head.weight must be wte.weight, to which it is tied, got another matrix"
        )


def _padded(embedding_VC: Tensor, vocab_size: int, rows: int) -> Tensor:
    if embedding_VC.shape[0] != vocab_size:
        message = f"huggingface: wte.weight must have {vocab_size} rows, got {embedding_VC.shape[0]}"
        raise IncompatibleError(message, hint="take the tokenizer that the weights were trained with")
    return F.pad(embedding_VC, (0, 0, 0, rows - vocab_size))


# ---- reading -----------------------------------------------------------------------------------------------------


def gpt2_config_of(folder: Path) -> GPT2Config:
    """The sizes of the model in a folder, as our config; its dropout is their `resid_pdrop`.

    Raises:
        FormatError: if `config.json` is missing or not what its name says.
        IncompatibleError: if it is another model, or a GPT-2 with a part that ours has not.
    """
    return _config(_read_config(folder / CONFIG))


def initial_weights(folder: Path, config: GPT2Config, vocab_size: int) -> dict[str, Tensor]:
    """The weights of a folder, to begin a run with.

    Args:
        folder: of a GPT-2; see `pretrained_folder`.
        config: of the run's model. Its context may be shorter than theirs: the positions behind it are cut off. Its
            dropout and its `vocab_multiple` are its own.
        vocab_size: V, of the run's tokenizer. Rows that the folder's own tokenizer has no ids for do not count.

    Returns:
        what `GPT2(config, vocab_size).load_state_dict` takes, in float32.

    Raises:
        FormatError: if a file is missing or not what its name says.
        IncompatibleError: if a size differs; names the setting and how to set it.
    """
    document = _read_config(folder / CONFIG)
    theirs = _config(document)
    for key, name in (("layers", "n_layer"), ("heads", "n_head"), ("width", "n_embd")):
        wanted, got = getattr(theirs, key), getattr(config, key)
        if got != wanted:
            message = f"{folder}: model.{key} must be {wanted}, as the weights' {name}, got {got}"
            raise IncompatibleError(message, hint=f"--set model.{key}={wanted}")
    if config.context > theirs.context:
        message = f"{folder}: model.context must be at most {theirs.context}, the weights' n_positions"
        raise IncompatibleError(f"{message}, got {config.context}", hint=f"--set model.context={theirs.context}")
    rows = document["vocab_size"]
    if rows > vocab_size and has_tokenizer(folder):
        rows = load_tokenizer(folder).n_vocab
    if rows != vocab_size:
        message = f"{folder}: the run's vocabulary must have {rows} ids, as the weights have, got {vocab_size}"
        raise IncompatibleError(message, hint="set data.tokenizer to the weights' own, and shard the text with it")
    tensors = _cut(_read_tensors(folder), positions=config.context, rows=vocab_size)
    return from_huggingface(tensors, config, vocab_size)


def require_same_tokens(folder: Path, vocabulary: Vocabulary) -> None:
    """Nothing, where each id stands for the same bytes in a vocabulary and in a folder's tokenizer, or it has none.

    Raises:
        IncompatibleError: if an id does not.
        FormatError: if the folder's tokenizer cannot be read.
    """
    if not has_tokenizer(folder):
        return
    hint = "set data.tokenizer to the weights' own, and shard the text with it"
    theirs = load_tokenizer(folder).vocab
    if not isinstance(vocabulary, bpetok.Tokenizer):
        raise IncompatibleError(f"{folder}: the run's ids must be tokens, got characters or bytes", hint=hint)
    ours = vocabulary.vocab
    if ours.ranks != theirs.ranks or ours.special_tokens != theirs.special_tokens:
        different = {*ours.ranks.items(), *ours.special_tokens.items()} ^ {
            *theirs.ranks.items(),
            *theirs.special_tokens.items(),
        }
        message = f"{folder}: the run's ids must stand for what they do in the weights' tokenizer"
        first = min(token_id for _, token_id in different)
        raise IncompatibleError(f"{message}, got another token for id {first}", hint=hint)


def load_pretrained(folder: Path, vocab_size: int | None = None) -> GPT2:
    """The GPT-2 of a folder, in eval mode.

    Args:
        folder: with `config.json`, and `model.safetensors` or the files that `model.safetensors.index.json` names.
        vocab_size: V, where the embedding has rows that stand for no id; these are cut off. All rows, if None.

    Raises:
        FormatError: if a file is missing or not what its name says.
        IncompatibleError: if it is another model, or a GPT-2 with a part that ours has not; or there are more ids than
            rows.
    """
    document = _read_config(folder / CONFIG)
    config = _config(document)
    rows = document["vocab_size"] if vocab_size is None else vocab_size
    tensors = _read_tensors(folder)
    if document["vocab_size"] > rows:
        tensors = _cut(tensors, positions=config.context, rows=rows)
    state = from_huggingface(tensors, config, rows)
    with torch.device("meta"):  # no weights are drawn only to be written over
        model = GPT2(config, rows)
    model.load_state_dict(state, assign=True)
    return model.eval()


def load_model(folder: Path, device: torch.device) -> tuple[GPT2, bpetok.Tokenizer]:
    """The GPT-2 of a folder, in eval mode, and the tokenizer that lies beside it.

    Raises:
        FormatError, IncompatibleError: as `load_pretrained` and `load_tokenizer`.
    """
    tokenizer = load_tokenizer(folder)
    return load_pretrained(folder, tokenizer.n_vocab).to(device), tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer that `load_tokenizer` looks for."""
    return (folder / TOKENIZER).is_file() or all((folder / name).is_file() for name in PAIR)


def load_tokenizer(folder: Path) -> bpetok.Tokenizer:
    """The tokenizer of a folder: its `tokenizer.json`, or else OpenAI's pair of `vocab.json` and `merges.txt`.

    Raises:
        FormatError: if there is neither, or it is not what its name says.
        VocabError: if it breaks the rules of a vocabulary.
    """
    if (folder / TOKENIZER).is_file():
        return bpetok.load(folder / TOKENIZER)
    if has_tokenizer(folder):
        return bpetok.Tokenizer(_read_pair(folder))
    raise FormatError(f"{folder}: must hold {TOKENIZER}, or {' and '.join(PAIR)}, got no tokenizer")


def _read_pair(folder: Path) -> bpetok.Vocab:
    """GPT-2's vocabulary; a token that is not spelled in the letters of its bytes is a special one."""
    table, merges_path = documents.read_json(folder / PAIR[0]), folder / PAIR[1]
    ranks: dict[bytes, int] = {}
    specials: dict[str, int] = {}
    for text, token_id in table.items():
        if type(token_id) is not int:
            raise FormatError(f"{folder / PAIR[0]}: {text!r:.60} must have an id, got {token_id!r:.60}")
        token = None if text == bpetok.vocab.END_OF_TEXT else documents.unspell(text)
        if token:
            ranks[token] = token_id
        else:
            specials[text] = token_id
    merges = []
    for number, line in enumerate(documents.read_text(merges_path).splitlines(), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        pair = tuple(ranks.get(documents.unspell(part) or b"") for part in (left, right))
        if pair[0] is None or pair[1] is None:
            raise FormatError(f"{merges_path}:{number}: must be two tokens and a blank between, got {line!r:.60}")
        merges.append((pair[0], pair[1]))
    with documents.naming(merges_path):
        return bpetok.Vocab(ranks, specials, "gpt2", merges, folder.absolute().name, semantics="merges")


def _cut(tensors: Mapping[str, Tensor], *, positions: int, rows: int) -> dict[str, Tensor]:
    """The tensors with the first rows alone, where they have more."""
    kept = {"wpe.weight": positions, "wte.weight": rows, "lm_head.weight": rows}
    return {name: tensor[: kept.get(name.removeprefix("transformer."))] for name, tensor in tensors.items()}


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return _read_file(folder / WEIGHTS)
    places = documents.member(documents.read_json(folder / INDEX), "weight_map", dict, f"{folder / INDEX}: ")
    for tensor, name in places.items():
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != ".safetensors":
            message = f"{folder / INDEX}: {tensor:.80} must lie in a .safetensors file of this folder"
            raise FormatError(f"{message}, got {name!r:.80}")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        tensors |= _read_file(folder / name)
    if missing := sorted(places.keys() - tensors.keys()):
        raise FormatError(f"{folder}: {missing[0]:.80} must be in {places[missing[0]]}, got none of that name")
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        # Copied: what is loaded lies in the mapped file, and whoever shortened that would end the process.
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (OSError, SafetensorError) as error:
        message = f"{path}: must be a safetensors file, got {error}"
        raise FormatError(message, hint="save it with safe_serialization=True; pickled weights are not read") from error


def _config(document: Mapping[str, Any]) -> GPT2Config:
    return GPT2Config(
        context=document["n_positions"],
        layers=document["n_layer"],
        heads=document["n_head"],
        width=document["n_embd"],
        dropout=document.get("resid_pdrop", 0.1),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        document = documents.read_json(path)
    except OSError as error:
        hint = "it is a run: lm export makes such a folder of it" if (path.parent / "checkpoints").is_dir() else None
        raise FormatError(f"{path}: must be a JSON file, got {error}", hint=hint) from error
    if document.get("model_type") != "gpt2":
        raise IncompatibleError(f"{path}: model_type must be gpt2, got {document.get('model_type')}")
    for key in ("n_positions", "n_layer", "n_head", "n_embd", "vocab_size"):
        if type(document.get(key)) is not int:
            raise FormatError(f"{path}: {key} must be an integer, got {document.get(key)}")
    if type(document.get("resid_pdrop", 0.1)) not in (int, float):
        raise FormatError(f"{path}: resid_pdrop must be a number, got {document['resid_pdrop']!r:.60}")
    for key, values in FIXED.items():
        # n_inner is also written out where it is the usual 4 * width.
        usual = key == "n_inner" and document.get(key) == 4 * document["n_embd"]
        if document.get(key, values[0]) not in values and not usual:
            raise IncompatibleError(f"{path}: {key} must be {values[0]}, got {document[key]}")
    return document


# ---- writing -----------------------------------------------------------------------------------------------------


def save_pretrained(
    model: GPT2, folder: Path, *, dtype: torch.dtype = torch.float32, end_of_text: int | None = None
) -> None:
    """Writes `config.json`, `generation_config.json` and `model.safetensors` into a folder, over such files.

    Args:
        model: whose weights they become.
        folder: made where it is not there.
        dtype: of the weights, one of `DTYPES`.
        end_of_text: the id that stands before a document and behind it, if one does.

    Raises:
        NonFiniteError: if a weight is not finite in the dtype.
    """
    tensors = to_huggingface(model.state_dict(), model.vocab_size, dtype)
    require_finite(tensors, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    config, ends = model.config, {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    document = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": model.vocab_size,
        "n_positions": config.context,
        "n_ctx": config.context,  # llama.cpp's converter asks for it by this name
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout),
        **{key: values[0] for key, values in FIXED.items()},
        **ends,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    write_json(folder / CONFIG, document)
    write_json(folder / "generation_config.json", {**ends, "pad_token_id": end_of_text})
    written = partial(folder / WEIGHTS)
    try:
        safetensors.torch.save_file(tensors, written, metadata={"format": "pt"})
        give_usual_mode(written)
        publish(written, folder / WEIGHTS)
    finally:
        written.unlink(missing_ok=True)


def require_finite(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Nothing, where all numbers are finite.

    Raises:
        NonFiniteError: if one is not; float16 ends at 65,504.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            message = f"export: {name} must be finite as {str(dtype).removeprefix('torch.')}, got inf or nan"
            raise NonFiniteError(message, hint="bfloat16 has float32's range" if dtype == torch.float16 else None)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_atomically(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
