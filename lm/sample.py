"""Samples: text drawn from a model, and the run it is drawn from, read back."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

import bpetok
from bpetok.errors import DataError, UnknownTokenError
from lm.alphabet import NEWLINE, Alphabet, Vocabulary
from lm.checkpoint import best as lowest
from lm.checkpoint import latest, load
from lm.config import Config, load_config
from lm.errors import CheckpointError
from lm.generate import generate, generate_batch, row_seeds
from lm.models import LADDER
from lm.models.contract import PAD, LanguageModel
from lm.run import RunFolder

__all__ = ["Sample", "checkpoint_of", "end_of_text", "generate", "load_run", "read_vocabulary", "write", "write_batch"]


def write(
    model: LanguageModel,
    vocabulary: Vocabulary,
    *,
    prompt: str = "",
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    lines: bool = False,
    seed: int,
    on_id: Callable[[int], None] | None = None,
) -> Iterator[str]:
    """Text behind a prompt, piece by piece as it is drawn, from the beginning of a document on.

    Args:
        model: on the device where it is to run.
        vocabulary: of its ids.
        prompt: what the document begins with.
        max_new_tokens: the most ids to draw.
        temperature: as `lm.generate.Sampling`; so are `top_k`, `top_p`, `min_p` and `repetition_penalty`.
        top_k: as there.
        top_p: as there.
        min_p: as there.
        repetition_penalty: as there.
        lines: whether each line is a document by itself (`data.documents`). Then one line follows another until the
            ids are drawn, each with the prompt and knowing of no other (of a prompt of several lines the model sees the
            last); else the text ends with its document.
        seed: of the draws; of lines, the seeds are those of `lm.generate.row_seeds`.
        on_id: called with each id as it is drawn, but for those that end a document.

    Raises:
        DataError: if the prompt has a character that the vocabulary lacks.
    """
    start, stop_ids = _document(vocabulary, prompt, lines)
    left = max_new_tokens

    def counted(drawn: Iterator[int]) -> Iterator[int]:
        nonlocal left
        for id_ in drawn:
            left -= 1
            if on_id is not None:
                on_id(id_)
            yield id_
        left -= 1  # the end was drawn, too

    for document_seed in row_seeds(seed):
        drawn = generate(
            model,
            start,
            max_new_tokens=left,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop_id=stop_ids[0] if stop_ids else None,
            seed=document_seed,
        )
        yield prompt
        with closing(drawn):
            yield from vocabulary.decode_stream(counted(drawn))
        if not lines or left <= 0:
            return
        yield NEWLINE


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A document that was drawn.

    Args:
        text: the prompt, and what was drawn behind it.
        ids: what was drawn, without the id that ended it.
        ended: whether the document's end was drawn, and not only as many ids as were allowed.
    """

    text: str
    ids: tuple[int, ...]
    ended: bool


def write_batch(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    lines: bool = False,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> list[Sample]:
    """One document behind each prompt, all drawn in one batch.

    Args:
        model: as `write`; so are all that are not named here.
        vocabulary: as there.
        prompts: what each document begins with; for several samples of one prompt, the prompt as often.
        max_new_tokens: the most ids to draw for a document.
        temperature: as there.
        top_k: as there.
        top_p: as there.
        min_p: as there.
        repetition_penalty: as there.
        lines: whether each line is a document by itself. Then a sample is one line, and the samples of one prompt are
            the lines that `write` writes with the same seed.
        seed: of the draws; the rows' seeds are those of `lm.generate.row_seeds`.
        on_step: called with the number of ids drawn at each step.

    Raises:
        DataError: if a prompt has a character that the vocabulary lacks.
    """
    documents = [_document(vocabulary, prompt, lines) for prompt in prompts]
    drawn: list[list[int]] = [[] for _ in documents]
    steps = generate_batch(
        model,
        [start for start, _ in documents],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop_ids=documents[0][1] if documents else (),
        seed=seed,
    )
    with closing(steps):
        for step in steps:
            for ids, id_ in zip(drawn, step, strict=True):
                ids += [] if id_ is None else [id_]
            if on_step is not None:
                on_step(len(step) - step.count(None))
    return [
        Sample(text=prompt + "".join(vocabulary.decode_stream(ids)), ids=tuple(ids), ended=len(ids) < max_new_tokens)
        for prompt, ids in zip(prompts, drawn, strict=True)
    ]


def _document(vocabulary: Vocabulary, prompt: str, lines: bool) -> tuple[list[int], tuple[int, ...]]:
    """The ids that a document with this prompt begins with, and those that end it."""
    separator = end_of_text(vocabulary)
    ids = vocabulary.encode_ordinary(prompt.rsplit(NEWLINE, 1)[-1] if lines else prompt)
    start = [separator] if separator is not None else [] if ids else [PAD]
    stops = separator is not None and (lines or isinstance(vocabulary, bpetok.Tokenizer))
    return [*start, *ids], (separator,) if stops and separator is not None else ()


def end_of_text(vocabulary: Vocabulary) -> int | None:
    """The id that stands before a document and behind it: a tokenizer's end-of-text token, an alphabet's newline.

    Returns:
        None, where the vocabulary has none.
    """
    if isinstance(vocabulary, bpetok.Tokenizer):
        try:
            return vocabulary.eot_token
        except UnknownTokenError:
            return None
    try:
        return vocabulary.encode_ordinary(NEWLINE)[0]
    except DataError:
        return None


def load_run(
    run_dir: str | Path, device: torch.device, *, best: bool = False
) -> tuple[LanguageModel, Vocabulary, Config]:
    """The model of a run as its latest checkpoint has it, its vocabulary and its settings.

    Args:
        run_dir: a folder that `lm.train` filled.
        device: where the model is put; it is in eval mode.
        best: take the checkpoint with the lowest validation loss in place of the latest.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
        ConfigError: if the run's config cannot be read.
        IncompatibleError: if config, tokenizer and checkpoint do not belong together.
    """
    folder = RunFolder(Path(run_dir))
    checkpoint = checkpoint_of(run_dir, best=best)
    config = load_config(folder.config)
    vocabulary = read_vocabulary(folder)
    model = LADDER[config.rung].build(config.model, vocabulary.n_vocab)
    load(checkpoint, model, rung=config.rung, fingerprint=vocabulary.fingerprint)
    return model.to(device).eval(), vocabulary, config


def checkpoint_of(run_dir: str | Path, *, best: bool = False) -> Path:
    """The checkpoint of a run that `load_run` reads.

    Raises:
        CheckpointError: if there is none, or none of those that are left was evaluated.
    """
    folder = RunFolder(Path(run_dir))
    checkpoint = lowest(folder.checkpoints) if best else latest(folder.checkpoints)
    if checkpoint is None and best and latest(folder.checkpoints) is not None:
        message = f"{folder.path}: a checkpoint must have a validation loss, got none that has"
        raise CheckpointError(message, hint="train with --set run.keep_best=true, or take the latest")
    if checkpoint is None:
        raise CheckpointError(f"{folder.path}: a run must have a checkpoint, got none", hint="train it first")
    return checkpoint


def read_vocabulary(folder: RunFolder) -> Vocabulary:
    """The vocabulary that a run keeps a copy of."""
    return Alphabet.load(folder.alphabet) if folder.alphabet.exists() else bpetok.load(folder.tokenizer)
