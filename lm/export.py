"""A trained GPT-2 as other programs take it: a folder for Hugging Face's `transformers`, a GGUF file for llama.cpp.

The tokenizer goes with the model, proven to give our ids where it is read again. Where a format cannot hold it, the
export is refused, since a model whose ids mean something else only seems to work; the weights alone are written when
that is asked for.

Of an alphabet, the characters are Hugging Face's `WordLevel`, whose words are they: an unknown character is an error
there as here. The 256 bytes are a byte-level BPE without merges. GGUF holds neither: llama.cpp has no tokenizer of
characters, and the `gguf` package writes no empty list of merges.
"""

import importlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final, get_args

import torch

import bpetok
from bpetok import formats
from bpetok.errors import FormatError, IncompatibleError, UnknownTokenError
from bpetok.files import partial, sync_file, sync_folder
from lm.alphabet import BYTES, Alphabet, Vocabulary
from lm.errors import require
from lm.huggingface import TOKENIZER, save_pretrained, write_json
from lm.models.contract import LanguageModel
from lm.models.gpt2 import GPT2
from lm.sample import load_run

Format = Literal["huggingface", "gguf"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What the weights may be written as."""


@final
@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export_run` wrote.

    Args:
        output: the folder or file.
        format: in which it is.
        dtype: of the weights.
        parameters: how many numbers, without padding.
        tokenizer: whether the tokenizer is with them.
        bytes: of all files.
    """

    output: Path
    format: Format
    dtype: str
    parameters: int
    tokenizer: bool
    bytes: int


def export_run(
    run_dir: str | Path,
    output: str | Path,
    *,
    format: Format | None = None,
    dtype: str = "float32",
    tokenizer: bool = True,
    best: bool = False,
) -> Exported:
    """Writes the model of a run's latest checkpoint, with its tokenizer, for another program.

    Args:
        run_dir: a folder that `lm.train` filled.
        output: the folder or file to make, whole or not at all. It must not be there, but for an empty folder.
        format: if None, "gguf" where the output's name ends so, else "huggingface".
        dtype: one of `DTYPES`.
        tokenizer: whether to write it; False for the weights alone.
        best: take the run's best checkpoint in place of the latest.

    Raises:
        ConfigError: if format or dtype is none of those.
        FormatError: if something is at the output's place, or the format cannot hold the tokenizer.
        IncompatibleError: if the run's rung is none that the format has.
        NonFiniteError: if a weight is not finite in the dtype.
        CheckpointError: if the run has no checkpoint.
        MissingExtraError: if a package is missing that writes the format.
    """
    output = Path(output)
    chosen: Format = format or ("gguf" if output.suffix == ".gguf" else "huggingface")
    require(chosen in get_args(Format), "export: format", f"one of {', '.join(get_args(Format))}", chosen)
    require(dtype in DTYPES, "export: dtype", f"one of {', '.join(DTYPES)}", dtype)
    require_free(output)
    model, vocabulary, _ = load_run(run_dir, torch.device("cpu"), best=best)
    kept = vocabulary if tokenizer else None
    if chosen == "gguf":
        from lm.gguf import export_gguf

        export_gguf(model, kept, output, dtype=DTYPES[dtype], name=Path(run_dir).absolute().name)
    else:
        export_huggingface(model, kept, output, dtype=DTYPES[dtype])
    files = [output] if output.is_file() else list(output.iterdir())
    return Exported(
        output=output,
        format=chosen,
        dtype=dtype,
        parameters=count_parameters(model),
        tokenizer=tokenizer,
        bytes=sum(file.stat().st_size for file in files),
    )


def export_huggingface(
    model: LanguageModel, vocabulary: Vocabulary | None, folder: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Writes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load: our logits, our ids.

    Args:
        model: a `GPT2`, on any device.
        vocabulary: of its ids; None to write the weights alone.
        folder: to make, whole or not at all. It must not be there, or be empty.
        dtype: of the weights, one of `DTYPES`.

    Raises:
        FormatError: if something is in the folder, or `tokenizer.json` cannot hold the vocabulary.
        IncompatibleError: if the model is of another rung, or has another number of ids than the vocabulary.
        NonFiniteError: if a weight is not finite in the dtype.
    """
    gpt2 = require_gpt2(model, vocabulary)
    require_free(folder)
    with _whole_folder(folder) as hidden:
        if vocabulary is not None:
            try:
                _write_tokenizer(vocabulary, hidden)
            except FormatError as error:
                raise FormatError(error.message, hint=without_tokenizer(error.hint)) from error
        save_pretrained(gpt2, hidden, dtype=dtype, end_of_text=end_of_text(vocabulary))


# ---- what every format asks --------------------------------------------------------------------------------------


def require_gpt2(model: LanguageModel, vocabulary: Vocabulary | None) -> GPT2:
    """The model, where it is a GPT-2 with as many ids as its vocabulary.

    Raises:
        IncompatibleError: if it is not.
    """
    if not isinstance(model, GPT2):
        message = f"export: the model must be of the rung gpt2, got {type(model).__name__}"
        raise IncompatibleError(message, hint="neither transformers nor llama.cpp has the other rungs' architectures")
    if vocabulary is not None and vocabulary.n_vocab != model.vocab_size:
        message = f"export: the vocabulary must have {model.vocab_size} ids, as the model has, got {vocabulary.n_vocab}"
        raise IncompatibleError(message, hint="take the run's own tokenizer")
    return model


def require_free(output: Path) -> None:
    """Nothing, where nothing is lost by writing there.

    Raises:
        FormatError: if there is a file, or a folder that is not empty.
    """
    if output.is_dir() and not output.is_symlink() and not any(output.iterdir()):
        return
    if os.path.lexists(output):
        raise FormatError(f"{output}: must not be there yet, but is", hint="name another place, or remove it")


def without_tokenizer(hint: str | None = None) -> str:
    """The hint of a vocabulary that a format cannot hold: after a hint of what else helps, if there is one."""
    alone = "--no-tokenizer (in Python None in its place) writes the weights alone"
    return alone if hint is None else f"{hint}; or {alone}"


def end_of_text(vocabulary: Vocabulary | None) -> int | None:
    """The id of a tokenizer's end-of-text token; None, where there is none: an alphabet's texts have no end."""
    if not isinstance(vocabulary, bpetok.Tokenizer):
        return None
    try:
        return vocabulary.eot_token
    except UnknownTokenError:
        return None


def count_parameters(model: LanguageModel) -> int:
    """How many numbers a GPT-2 has without the padding of its vocabulary."""
    gpt2 = require_gpt2(model, None)
    padding = gpt2.token_embedding.num_embeddings - gpt2.vocab_size
    return gpt2.expected_parameters() - padding * gpt2.config.width


# ---- the tokenizer -----------------------------------------------------------------------------------------------


def _write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    if isinstance(vocabulary, bpetok.Tokenizer):
        formats.write(vocabulary.vocab, folder, format="huggingface")
    elif vocabulary == BYTES:
        bytes_alone = bpetok.Vocab({bytes([byte]): byte for byte in range(256)}, {}, None, name="bytes")
        formats.write(bytes_alone, folder, format="huggingface")
    else:
        assert isinstance(vocabulary, Alphabet)
        _write_characters(vocabulary, folder)


def _write_characters(alphabet: Alphabet, folder: Path) -> None:
    """Words of one character each, for `tokenizers`, which proves it where it is installed."""
    characters = alphabet.characters or ""
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},  # else the library puts blanks between
        "model": {
            "type": "WordLevel",
            "vocab": {character: i for i, character in enumerate(characters)},
            "unk_token": "",  # which is no word, so that an unknown character is an error
        },
    }
    write_json(folder / TOKENIZER, document)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", {**about, "model_max_length": 10**30})
    if importlib.util.find_spec("tokenizers") is None:
        return
    library = importlib.import_module("tokenizers").Tokenizer.from_file(str(folder / TOKENIZER))
    for text in (characters, characters[::-1], "".join(sorted(characters * 3))):
        ids = library.encode(text, add_special_tokens=False).ids
        if ids != alphabet.encode_ordinary(text) or library.decode(ids) != text:
            raise FormatError(f"{folder / TOKENIZER}: tokenizers must give our ids of {text[:20]!r}, got {ids[:20]}")


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder that gets its name when the block ends well, and is gone when it raises."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    hidden = partial(folder.absolute())
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    try:
        yield hidden
        for path in hidden.iterdir():
            sync_file(path)
        sync_folder(hidden)
        require_free(folder)  # again: it took a while
        if folder.exists():
            folder.rmdir()
        hidden.rename(folder)
        sync_folder(folder.absolute().parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
