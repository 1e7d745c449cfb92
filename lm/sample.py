"""Samples: ids drawn from a model one by one, and the run they are drawn from, read back."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import bpetok
from lm.checkpoint import latest, load
from lm.config import Config, load_config
from lm.errors import CheckpointError, require
from lm.models import LADDER
from lm.models.contract import LanguageModel
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
                id_ = _draw(logits_V, temperature, top_k, top_p, generator)
                if id_ == stop_id:
                    return
                ids.append(id_)
                yield id_
        finally:
            model.train(was_training)

    return draw()


def load_run(run_dir: str | Path, device: torch.device) -> tuple[LanguageModel, bpetok.Tokenizer, Config]:
    """The model of a run as its latest checkpoint has it, its tokenizer and its settings.

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
    tokenizer = bpetok.load(folder.tokenizer)
    model = LADDER[config.rung].build(config.model, tokenizer.n_vocab)
    load(checkpoint, model, rung=config.rung, fingerprint=tokenizer.fingerprint)
    return model.to(device).eval(), tokenizer, config


@torch.inference_mode()
def _next_logits(model: LanguageModel, ids: list[int]) -> Tensor:
    window_1T = torch.tensor([ids[-model.context :]], device=next(model.parameters()).device)
    logits_1TV: Tensor = model(window_1T)
    return logits_1TV[0, -1].float()


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
