"""A run's model for EleutherAI's lm-evaluation-harness: its tasks, its scoring, our models.

Wants the harness itself: pip install "bpetok[eval]". Importing this module registers the model as `bpetok-lm`:

    import lm_eval, lm.harness
    lm_eval.simple_evaluate(model="bpetok-lm", model_args={"run": "runs/gpt"}, tasks=["hellaswag"])

Context and continuation become ids together, and the blanks that a context ends with count as the continuation's, both
as in the harness's own models: so ids, and figures, are theirs for the same weights. Where there is no context, the id
stands in its place that stands before a document (`lm.sample.end_of_text`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, final

import bpetok
from bpetok.errors import MissingExtraError, UnavailableError
from lm.alphabet import Vocabulary
from lm.assessment import fitting_tokens
from lm.errors import require
from lm.generate import generate
from lm.models.contract import PAD, LanguageModel
from lm.parallel import fitting_threads, pick_device, pick_dtype
from lm.sample import end_of_text, load_run
from lm.stretches import Score, Stretch, score

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise MissingExtraError("eval") from error

MAX_NEW_TOKENS = 256
"""How long a generated text may become where a task does not say."""
_ROWS = 16  # on CUDA, where a run does not say how many fit


@final
@register_model("bpetok-lm")
class HarnessModel(LM):  # type: ignore[misc]
    """What the harness asks of a model: how likely texts are, and texts that go on."""

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        *,
        tokens: int | None = None,
        dtype: str = "auto",
        info: Mapping[str, str] | None = None,
    ) -> None:
        """Runs nothing yet.

        Args:
            model: any rung, on the device where it is to run.
            vocabulary: of its ids.
            tokens: the most ids of a batch, fillings included; as many as fit easily where left out.
            dtype: of the matrix products, as `run.dtype`.
            info: goes into the harness's results, beside the vocabulary's fingerprint.
        """
        super().__init__()
        require(tokens is None or tokens >= 1, "harness: tokens", "at least 1", tokens)
        self._model = model
        self._vocabulary = vocabulary
        self._device = next(model.parameters()).device
        self._dtype = pick_dtype(dtype, self._device)
        self._tokens = fitting_tokens(model, _ROWS) if tokens is None else tokens
        self._end_of_text = end_of_text(vocabulary)
        self._before = PAD if self._end_of_text is None else self._end_of_text
        self._info = dict(info or {})

    @classmethod
    def of_run(
        cls,
        run: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        rows: int | None = None,
        best: bool = False,
    ) -> Self:
        """The model of a run's folder; `rows` of full length in a batch. The rest is as `lm.sample.load_run` has it."""
        model, vocabulary, config = load_run(run, pick_device(device), best=best)
        info = {"run": str(run), "rung": config.rung}
        tokens = fitting_tokens(model, config.batch.rows) if rows is None else rows * model.context
        return cls(model, vocabulary, tokens=tokens, dtype=dtype, info=info)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """What the harness calls for `model_args`: `run`, and `device`, `dtype` and `batch_size` if wanted.

        Raises:
            ConfigError: if `run` is missing, or an argument is not known.
        """
        given = {**(additional_config or {}), **arg_dict}
        given = {name: value for name, value in given.items() if value is not None}
        given.pop("max_batch_size", None)  # the harness's command line always has it
        known = ("run", "device", "dtype", "batch_size")
        for name in given:
            require(name in known, f"model_args: {name}", f"one of {', '.join(known)}", given[name])
        require("run" in given, "model_args: run", "the folder of a run", None, "model_args=run=runs/gpt")
        size = given.pop("batch_size", "auto")
        rows = None if str(size).startswith("auto") else int(size)
        return cls.of_run(given.pop("run"), rows=rows, **given)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """As `create_from_arg_obj`, of a string such as "run=runs/gpt,device=cpu"."""
        pairs = (pair.partition("=") for pair in arg_string.split(",") if pair)
        return cls.create_from_arg_obj({name.strip(): value.strip() for name, _, value in pairs}, additional_config)

    # ---- what the harness asks ---------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each (context, continuation): the continuation's log-likelihood, and whether it is what greedy drawing
        gives.
        """
        pairs = [request.args for request in requests]
        scores = self._score([self._stretch(*pair) for pair in pairs], greedy=True)
        answers = [(-one.nats, bool(one.greedy)) for one in scores]
        for pair, answer in zip(pairs, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """For each text its log-likelihood as a document: each id is predicted once, T at a time."""
        texts = [request.args[0] for request in requests]
        answers = [-one.nats for one in self._score([self._stretch("", text) for text in texts])]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """For each (context, settings) the text that goes on, up to the first of the stops in `until`.

        Settings: `until`, `max_gen_toks`, `do_sample` (greedy unless true), `temperature`, `top_k`, `top_p`, `min_p`.
        """
        answers = []
        for request in requests:
            context, given = request.args
            answers.append(self._generate(context, given))
            self.cache_hook.add_partial("generate_until", (context, given), answers[-1])
        return answers

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps the answers of one vocabulary apart by."""
        return f"bpetok-{self._vocabulary.fingerprint}"

    def get_model_info(self) -> dict[str, str]:
        """What the harness writes into its results."""
        return {**self._info, "vocabulary": self._vocabulary.fingerprint}

    # ------------------------------------------------------------------------------------------------------------------

    def _score(self, stretches: Sequence[Stretch], *, greedy: bool = False) -> list[Score]:
        with fitting_threads(self._tokens * self._model.expected_parameters()):
            return score(self._model, stretches, tokens=self._tokens, dtype=self._dtype, greedy=greedy)

    def _stretch(self, context: str, continuation: str) -> Stretch:
        encode = self._vocabulary.encode_ordinary
        if not context:
            return Stretch([self._before, *encode(continuation)], 1)
        kept = context.rstrip()
        if not kept:  # nothing but blanks: they are predicted, too
            return Stretch([self._before, *encode(context + continuation)], 1)
        ids, first = encode(context + continuation), len(encode(kept))
        if first >= len(ids):  # all of the continuation became one token with the context's end
            ids = [*encode(kept), *encode(context[len(kept) :] + continuation)]
        return Stretch(ids, first)

    def _generate(self, context: str, given: Mapping[str, Any]) -> str:
        stops = given.get("until") or []
        stops = [stops] if isinstance(stops, str) else [stop for stop in stops if stop]
        sampled = bool(given.get("do_sample", False)) and given.get("temperature") != 0
        shaped = {name: given[name] for name in ("top_k", "top_p", "min_p") if sampled and given.get(name)}
        ids = generate(
            self._model,
            self._vocabulary.encode_ordinary(context) or [self._before],
            max_new_tokens=int(given.get("max_gen_toks", MAX_NEW_TOKENS)),
            temperature=float(given.get("temperature", 1.0)) if sampled else 0.0,
            stop_id=self._end_of_text if isinstance(self._vocabulary, bpetok.Tokenizer) else None,
            seed=0,
            **shaped,
        )
        try:
            return _up_to(stops, self._vocabulary.decode_stream(ids))
        finally:
            ids.close()  # at once: the model's mode waits for it


def _up_to(stops: Sequence[str], pieces: Iterable[str]) -> str:
    """The text of the pieces up to where the first of the stops begins."""
    text = ""
    for piece in pieces:
        text += piece
        found = [place for stop in stops if (place := text.find(stop)) >= 0]
        if found:
            return text[: min(found)]
    return text


def run_tasks(
    model: HarnessModel, tasks: Sequence[str], *, limit: int | None = None, few_shots: int | None = None
) -> dict[str, dict[str, Any]]:
    """The harness's figures, by task.

    Args:
        model: the model.
        tasks: names of the harness's tasks ("hellaswag", "arc_easy"); most fetch their data from Hugging Face's hub.
        limit: the most items of each task.
        few_shots: solved examples before each question; as the task has it where left out.

    Raises:
        ConfigError: if the harness knows no such task.
        UnavailableError: if a task's data are not on this machine and cannot be fetched.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    known = set(manager.all_tasks)
    for name in tasks:
        require(name in known, "tasks", "names of the harness's tasks", name, "lm-eval ls tasks lists them")
    try:
        found = simple_evaluate(
            model=model, tasks=list(tasks), limit=limit, num_fewshot=few_shots, task_manager=manager, log_samples=False
        )
    except (OSError, ConnectionError) as error:  # so are the errors of requests, huggingface_hub and datasets
        message = f"{', '.join(tasks)}: the data must be on this machine or be fetched, got {error!s:.200}"
        hint = "run it once with a network; unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE if they are set"
        raise UnavailableError(message, hint=hint) from error
    results: dict[str, dict[str, Any]] = found["results"]
    return results
