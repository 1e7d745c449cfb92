"""Samples: ids drawn from a model one by one, and the run they are drawn from, read back."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import bpetok
from bpetok.errors import DataError, UnknownTokenError
from lm.alphabet import NEWLINE, Alphabet, Vocabulary
from lm.checkpoint import latest, load
from lm.config import Config, load_config
from lm.errors import CheckpointError, NonFiniteError, require
from lm.models import LADDER
from lm.models.contract import PAD, LanguageModel
from lm.run import RunFolder


def generate(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_id: int | None = None,
    seed: int,
) -> Iterator[int]:
    """New ids after a prompt, each as soon as it is drawn.

    The model reads the last `context` ids: when the text outgrows it, the window slides. The model is in eval
    mode while it draws, and back in its own mode when the iterator ends or is closed.

    Args:
        model: on the device where it is to run.
        prompt_ids: at least one id, each in [0, V).
        max_new_tokens: the most ids to draw.
        temperature: divides the logits; below 1 the likely ids gain. 0 takes the most likely one, the lowest
            id of equals.
        top_k: draw from the k most likely ids only.
        top_p: draw from the fewest most likely ids whose chances sum to at least p; always at least one.
        stop_id: end when this id is drawn; it is not given out.
        seed: of the draws. Equal seeds give equal ids on one machine and version of torch, not across
            versions.

    Raises:
        ConfigError: if an argument is out of its range; at the call, not at the first id.
        NonFiniteError: if the model gives nan.

    Source: top-p is Holtzman et al., *The Curious Case of Neural Text Degeneration* (2020), section 3.1.
    """
    ids = list(prompt_ids)
    require(len(ids) > 0, "sample: prompt_ids", "one id or more", ids, "begin with the tokenizer's eot_token")
    known = all(0 <= id_ < model.vocab_size for id_ in ids)
    require(known, "sample: prompt_ids", f"in [0, {model.vocab_size})", ids)
    require(max_new_tokens >= 0, "sample: max_new_tokens", "at least 0", max_new_tokens)
    require(0 <= temperature < math.inf, "sample: temperature", "finite and at least 0", temperature)
    require(top_k is None or top_k >= 1, "sample: top_k", "at least 1", top_k)
    require(top_p is None or 0 < top_p <= 1, "sample: top_p", "in (0, 1]", top_p)
    require(0 <= seed < 2**63, "sample: seed", "in [0, 2**63)", seed)
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)

    def draw() -> Iterator[int]:
        was_training = model.training
        model.eval()
        try:
            for _ in range(max_new_tokens):
                logits_V = _next_logits(model, ids)
                if logits_V.isnan().any():
                    hint = "the run has diverged: train it again with a lower optimizer.lr"
                    raise NonFiniteError("sample: the model's logits must be numbers, got nan", hint=hint)
                id_ = _draw(logits_V, temperature, top_k, top_p, generator)
                if id_ == stop_id:
                    return
                ids.append(id_)
                yield id_
        finally:
            model.train(was_training)

    return draw()


def write(
    model: LanguageModel,
    vocabulary: Vocabulary,
    *,
    prompt: str = "",
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    lines: bool = False,
    seed: int,
) -> Iterator[str]:
    """Text behind a prompt, piece by piece as it is drawn, from the beginning of a document on.

    Args:
        model: on the device where it is to run.
        vocabulary: of its ids.
        prompt: what the document begins with.
        max_new_tokens: the most ids to draw.
        temperature: as `generate`; so are `top_k`, `top_p` and `seed`.
        lines: whether each line is a document by itself (`data.documents`). Then one line follows another until the
            ids are drawn, each with the prompt and knowing of no other (of a prompt of several lines the model sees the
            last); else the text ends with its document.

    Raises:
        DataError: if the prompt has a character that the vocabulary lacks.
    """
    separator = end_of_text(vocabulary)
    ids = vocabulary.encode_ordinary(prompt.rsplit(NEWLINE, 1)[-1] if lines else prompt)
    start = [separator] if separator is not None else [] if ids else [PAD]
    stops = lines or isinstance(vocabulary, bpetok.Tokenizer)
    left = max_new_tokens

    def counted(drawn: Iterator[int]) -> Iterator[int]:
        nonlocal left
        for id_ in drawn:
            left -= 1
            yield id_
        left -= 1  # the end was drawn, too

    seeds = torch.Generator().manual_seed(seed)
    for document in itertools.count():
        # Neighbouring seeds must not share lines, so the further documents' seeds are drawn.
        document_seed = int(torch.randint(2**62, (), generator=seeds)) if document else seed
        drawn = generate(
            model,
            [*start, *ids],
            max_new_tokens=left,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop_id=separator if stops else None,
            seed=document_seed,
        )
        yield prompt
        yield from vocabulary.decode_stream(counted(drawn))
        if not lines or left <= 0:
            return
        yield NEWLINE


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


def load_run(run_dir: str | Path, device: torch.device) -> tuple[LanguageModel, Vocabulary, Config]:
    """The model of a run as its latest checkpoint has it, its vocabulary and its settings.

    Args:
        run_dir: a folder that `lm.train` filled.
        device: where the model is put; it is in eval mode.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
        ConfigError: if the run's config cannot be read.
        IncompatibleError: if config, tokenizer and checkpoint do not belong together.
    """
    folder = RunFolder(Path(run_dir))
    checkpoint = latest(folder.checkpoints)
    if checkpoint is None:
        raise CheckpointError(f"{folder.path}: a run must have a checkpoint, got none", hint="train it first")
    config = load_config(folder.config)
    vocabulary = read_vocabulary(folder)
    model = LADDER[config.rung].build(config.model, vocabulary.n_vocab)
    load(checkpoint, model, rung=config.rung, fingerprint=vocabulary.fingerprint)
    return model.to(device).eval(), vocabulary, config


def read_vocabulary(folder: RunFolder) -> Vocabulary:
    """The vocabulary that a run keeps a copy of."""
    return Alphabet.load(folder.alphabet) if folder.alphabet.exists() else bpetok.load(folder.tokenizer)


@torch.inference_mode()
def _next_logits(model: LanguageModel, ids: list[int]) -> Tensor:
    window_1T = torch.tensor([ids[-model.context :]], device=next(model.parameters()).device)
    return model.next_logits(window_1T)[0].float()


@torch.inference_mode()
def _draw(
    logits_V: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    # Stable, so that of equal logits the lowest id comes first, here as under top_k and top_p.
    sorted_K, ids_K = logits_V.sort(descending=True, stable=True)
    if temperature == 0:
        return int(ids_K[0])
    # Less the highest first: then a tiny temperature gives 0 and -inf, never inf.
    chances_K = torch.softmax((sorted_K[:top_k] - sorted_K[0]) / temperature, dim=0)
    if top_p is not None:
        before_K = chances_K.cumsum(dim=0) - chances_K
        chances_K = chances_K * (before_K < top_p)
        chances_K[0] = chances_K[0].clamp(min=torch.finfo(chances_K.dtype).tiny)
    return int(ids_K[torch.multinomial(chances_K, 1, generator=generator)])
