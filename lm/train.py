"""The training loop: one readable function, and the parts that it names.

What it promises: the targets of a step weigh alike, however they are cut in micro batches; every target of
the split is learnt from once an epoch; nothing but finite numbers reaches the weights; and a run that was
stopped and resumed ends with the very weights of an unbroken one (on the CPU bit for bit).

It prints nothing. Whoever wants to watch passes `on_event`; whoever wants to know reads `metrics.jsonl`.
"""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch

from bpetok.errors import IncompatibleError
from bpetok.files import write_atomically
from lm.alphabet import Alphabet
from lm.batches import Batches, Draws, checksum, require_same_split
from lm.checkpoint import State, latest, load, read_state, rng_state, save, set_rng_state
from lm.config import Config, TextConfig, config_from_toml, dump_config, load_config, settings
from lm.data import Data, open_data
from lm.diagnostics import watch
from lm.errors import CheckpointError, ConfigError, NonFiniteError, Preempted
from lm.evaluate import Evaluation, evaluate, logits_for
from lm.loss import count_targets, cross_entropy
from lm.models import LADDER
from lm.models.contract import LanguageModel
from lm.optim import build, set_learning_rate
from lm.parallel import autocast, fitting_threads, pick_device, pick_dtype, require_one_process
from lm.prefetch import Prefetch, to_device
from lm.run import RunFolder, append_metric, cut_metrics, read_metrics
from lm.sample import write
from lm.schedule import KINDS


@dataclass(frozen=True, kw_only=True)
class StartEvent:
    """A call of `train` has opened everything.

    Args:
        rung: of the model.
        parameters: of the model.
        vocab_size: the ids of the vocabulary.
        train_tokens: the ids of the training split.
        val_tokens: those of the validation split.
        step: updates that were made before.
    """

    rung: str
    parameters: int
    vocab_size: int
    train_tokens: int
    val_tokens: int
    step: int


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """A step was made.

    Args:
        step: updates made so far, this one included.
        steps: updates of the whole run.
        loss: nats per token over the step's targets, before the update.
        lr: the learning rate of the update.
        grad_norm: of the gradient, before clipping.
        tokens: targets learnt from so far.
        seconds: since this call of `train` began.
    """

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EvalEvent:
    """The validation split was evaluated after `step` updates."""

    step: int
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent:
    """A checkpoint was saved after `step` updates."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class SampleEvent:
    """The model wrote a text after `step` updates."""

    step: int
    text: str


Event = StartEvent | StepEvent | EvalEvent | CheckpointEvent | SampleEvent


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to.

    Args:
        steps: updates made, those before a resume included.
        tokens: targets learnt from.
        before: the first evaluation in the log: of the untrained weights, unless the log was lost.
        after: the last one.
        checkpoint: the last checkpoint.
        seconds: of this call.
    """

    steps: int
    tokens: int
    before: Evaluation
    after: Evaluation
    checkpoint: Path
    seconds: float


def train(
    config: Config,
    run_dir: str | Path,
    *,
    resume: bool = False,
    max_seconds: float = math.inf,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Trains what a config describes, and leaves weights, log and settings in the run's folder.

    It seeds torch's global generator. Ctrl-C and SIGTERM let the step be finished and save a checkpoint; a
    second Ctrl-C does not wait.

    Args:
        config: the run; when resuming, the one it began with, but for `[data]`, the device and how often it evaluates,
            logs and saves.
        run_dir: the run's folder; made if it is not there.
        resume: go on from the latest checkpoint in `run_dir`.
        max_seconds: end this call at the first step that is over after so long, with an evaluation and a checkpoint.
        on_event: called with each event as it happens; every step has one.

    Raises:
        ConfigError: if a setting is impossible on this machine.
        CheckpointError: if `run_dir` has a checkpoint and `resume` was not asked for, or the reverse, or it
            is damaged.
        IncompatibleError: if tokenizer, shards, checkpoint and config do not belong together.
        CorruptionError: if a file of the shards is not as it was written; all of them are read for that.
        DataError: if a split has fewer than two ids, or a text is too short for the model's context.
        NonFiniteError: if loss or gradient are nan or infinite; the weights were not updated.
        KeyboardInterrupt: after Ctrl-C; the checkpoint is saved.
        Preempted: after SIGTERM; the checkpoint is saved.
    """
    run = _open(config, RunFolder(Path(run_dir)), resume=resume, on_event=on_event)
    plan = config.run
    run.on_event(_start_event(run))
    rows, context = config.batch.rows, config.model.context
    products = rows * context * run.model.expected_parameters()
    with fitting_threads(products), _reading_ahead(run), _asked_to_stop() as stopped_by:
        if run.step == 0:
            _evaluate(run)
        while run.step < plan.steps:
            _take_step(run)
            last = run.step == plan.steps or time.perf_counter() - run.started > max_seconds
            if last or run.step % plan.eval_every == 0:
                _evaluate(run)
            if plan.sample_every and (last or run.step % plan.sample_every == 0):
                _sample(run)
            stop = stopped_by[0] if stopped_by and not last else None  # read once: a signal may come at any moment
            if last or stop or run.step % plan.checkpoint_every == 0:
                _save(run)
            if stop:
                raise _ending(stop, run.step)
            if last:
                break
    return _result(run)


def _start_event(run: "_Run") -> StartEvent:
    return StartEvent(
        rung=run.config.rung,
        parameters=run.model.expected_parameters(),
        vocab_size=run.data.vocabulary.n_vocab,
        train_tokens=run.data.train.tokens,
        val_tokens=run.data.val.tokens,
        step=run.step,
    )


@dataclass(kw_only=True)
class _Run:
    """The parts of a run while it runs, and how far it has come."""

    config: Config
    folder: RunFolder
    data: Data
    model: LanguageModel
    forward: LanguageModel  # the model, or its compiled twin over the same weights
    optimizer: torch.optim.Optimizer
    batches: Batches | Draws | Prefetch
    device: torch.device
    dtype: torch.dtype
    on_event: Callable[[Event], None]
    started: float
    step: int = 0
    tokens: int = 0


def _open(config: Config, folder: RunFolder, *, resume: bool, on_event: Callable[[Event], None] | None) -> _Run:
    started = time.perf_counter()
    require_one_process()
    device = pick_device(config.run.device)
    dtype = pick_dtype(config.run.dtype, device)
    if config.run.compile and device.type != "cuda":
        message = f"run.compile must be false on run.device = {device.type}, got True"
        raise ConfigError(message, hint="--set run.compile=false")
    checkpoint = _checkpoint_to_resume(folder, resume)
    data = open_data(config)
    torch.manual_seed(config.run.seed)
    # Drawn on the CPU and moved, so that every device begins with the same weights.
    model = LADDER[config.rung].build(config.model, data.vocabulary.n_vocab).to(device)
    run = _Run(
        config=config,
        folder=folder,
        data=data,
        model=model,
        forward=cast("LanguageModel", torch.compile(model)) if config.run.compile else model,
        optimizer=build(model, config.optimizer),
        batches=open_batches(config, data),
        device=device,
        dtype=dtype,
        on_event=on_event or (lambda event: None),
        started=started,
    )
    if checkpoint is not None:
        _resume(run, checkpoint)
    _write_settings(run)
    return run


def _checkpoint_to_resume(folder: RunFolder, resume: bool) -> Path | None:
    checkpoint = latest(folder.checkpoints)
    if resume and checkpoint is None:
        message = f"{folder.path}: a run to resume must have a checkpoint, got none"
        raise CheckpointError(message, hint="start it anew, without resume")
    if not resume and checkpoint is not None:
        message = f"{folder.path}: a new run's folder must have no checkpoint, got {checkpoint.name}"
        raise CheckpointError(message, hint="go on with --resume, or take another folder")
    return checkpoint


def _resume(run: _Run, checkpoint: Path) -> None:
    # The settings first: their names say more than those of tensors.
    begun_with = config_from_toml(read_state(checkpoint).config, where=str(checkpoint))
    _require_same_run(run.config, begun_with, checkpoint)
    fingerprint = run.data.vocabulary.fingerprint
    state = load(checkpoint, run.model, run.optimizer, rung=run.config.rung, fingerprint=fingerprint)
    run.batches = open_batches(run.config, run.data, state.batches)
    val = checksum(run.data.val)
    require_same_split({"val_checksum": val, **state.batches}, val_checksum=val)
    run.step, run.tokens = state.step, state.tokens
    cut_metrics(run.folder, run.step)
    if not any(line["event"] == "eval" for line in read_metrics(run.folder)):  # the log was lost
        _evaluate(run)
    set_rng_state(state.rng)


def open_batches(config: Config, data: Data, cursor: Mapping[str, int] | None = None) -> Batches | Draws:
    """The batches of a run.

    Args:
        config: the run.
        data: what it reads.
        cursor: where they go on, from a checkpoint; None from the beginning. Draws begin where torch's global
            generator stands, so the model must just have been built.

    Raises:
        IncompatibleError: if the cursor is of another split, context or number of rows.
    """
    rows, context = config.batch.rows, config.model.context
    if config.batch.order == "draws":
        if cursor is None:
            return Draws(data.train, rows=rows, context=context)
        return Draws.from_state(data.train, cursor, rows=rows, context=context)
    if cursor is None:
        return Batches(data.train, rows=rows, context=context, seed=config.run.seed)
    return Batches.from_state(data.train, cursor, rows=rows, context=context)


def _require_same_run(config: Config, begun_with: Config, checkpoint: Path) -> None:
    """Nothing that decides the weights may change but the device: a resumed run is the same run."""
    began, now = settings(begun_with), settings(config)
    names = [name for name in sorted(began.keys() | now.keys()) if not name.startswith(("data.", "run."))]
    for name in ["model.rung", *names, "run.seed", "run.dtype"]:
        _require_equal(name, began.get(name), now.get(name), checkpoint)
    # With no schedule.decay_steps, another number of steps is another learning rate at each, unless it never changes.
    if config.schedule.min_lr == config.optimizer.lr and config.schedule.kind == "drop":
        return
    _require_equal("the step at which the rate is lowest", begun_with.decay_steps, config.decay_steps, checkpoint)


def _require_equal(name: str, began: object, now: object, checkpoint: Path) -> None:
    if began != now:
        message = f"{checkpoint}: {name} must be {began}, as the run began, got {now}"
        raise IncompatibleError(message, hint="resume with the run's own config.toml, or start a new run")


def _write_settings(run: _Run) -> None:
    """The config, a resumed run's with what was changed; the vocabulary; an empty log, where the run begins."""
    folder, config = run.folder, run.config
    folder.path.mkdir(parents=True, exist_ok=True)
    vocabulary = run.data.vocabulary
    if isinstance(vocabulary, Alphabet):
        vocabulary.save(folder.alphabet)
    elif config.data.tokenizer != folder.tokenizer.resolve():
        vocabulary.save(folder.tokenizer)
        data = dataclasses.replace(config.data, tokenizer=folder.tokenizer)
        config = dataclasses.replace(config, data=data)
    if not folder.config.exists() or run.step > 0:
        write_atomically(folder.config, dump_config(config, folder.path).encode())
    elif run.step == 0 and load_config(folder.config) not in (config, run.config):
        message = f"{folder.config}: a new run's folder must not hold another run's settings"
        raise CheckpointError(message, hint="take another folder, or remove this one")
    if run.step == 0:
        folder.metrics.write_text("", encoding="utf-8")


@contextmanager
def _reading_ahead(run: _Run) -> Iterator[None]:
    """Within, a thread prepares the next step's batches while the device computes this one's."""
    if run.device.type not in _READ_AHEAD_ON:
        yield
        return
    with Prefetch(run.batches, device=run.device, ahead=run.config.batch.accumulation) as run.batches:
        yield


_READ_AHEAD_ON = ("cuda",)  # on the CPU the thread would take the time from the model


def _take_step(run: _Run) -> None:
    """One update of the weights, from `accumulation` micro batches."""
    schedule, optimizer = run.config.schedule, run.config.optimizer
    rate = KINDS[schedule.kind](
        run.step,
        peak=optimizer.lr,
        floor=schedule.min_lr,
        warmup_steps=schedule.warmup_steps,
        decay_steps=run.config.decay_steps,
    )
    set_learning_rate(run.optimizer, rate)
    plan, number = run.config.run, run.step + 1
    every = plan.diagnose_every
    diagnosed = every > 0 and (number in (1, plan.steps) or number % every == 0)
    with watch(run.model) if diagnosed else nullcontext() as watching:
        loss, tokens = _accumulate(run, run.model if diagnosed else run.forward)
        # An infinite limit clips nothing and still gives the norm.
        limit = optimizer.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit).item()
        _require_finite(run, loss=loss, grad_norm=norm)
        run.optimizer.step()
        diagnosis = watching.diagnose() if watching else None
    run.step += 1
    run.tokens += tokens
    if diagnosis:
        append_metric(run.folder, {"event": "diagnostics", "step": run.step, **diagnosis.to_json()})
    seconds = time.perf_counter() - run.started
    event = StepEvent(
        step=run.step,
        steps=run.config.run.steps,
        loss=loss,
        lr=rate,
        grad_norm=norm,
        tokens=run.tokens,
        seconds=seconds,
    )
    if run.step % run.config.run.log_every == 0:
        line = {key: value for key, value in dataclasses.asdict(event).items() if key != "steps"}
        append_metric(run.folder, {"event": "step", **line})
    run.on_event(event)


def _accumulate(run: _Run, forward: LanguageModel) -> tuple[float, int]:
    """The step's mean loss and its number of targets; leaves that loss's gradient on the parameters.

    The count of the whole step is known before the first backward pass, so every target weighs the same.
    """
    micro_batches = [next(run.batches) for _ in range(run.config.batch.accumulation)]
    tokens = sum(count_targets(targets_BT) for _, targets_BT in micro_batches)
    run.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=run.device)
    for batch in micro_batches:
        inputs_BT, targets_BT = to_device(batch, run.device)
        with autocast(run.device, run.dtype):
            loss = cross_entropy(logits_for(forward, inputs_BT, targets_BT), targets_BT, count=tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total.item(), tokens


def _require_finite(run: _Run, **figures: float) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            saved = latest(run.folder.checkpoints)
            raise NonFiniteError(
                f"train: {name} must be finite, got {value} at step {run.step + 1}",
                hint="the weights were not updated; lower optimizer.lr or set optimizer.grad_clip"
                + (f"; the last checkpoint is {saved.name}" if saved else ""),
            )


def _require_finite_weights(run: _Run) -> None:
    """A finite gradient times a huge rate may still overflow; such weights are neither shown nor saved."""
    for name, parameter in run.model.named_parameters():
        if not parameter.isfinite().all():
            saved = latest(run.folder.checkpoints)
            raise NonFiniteError(
                f"train: {name} must be finite, got nan or inf after step {run.step}",
                hint="lower optimizer.lr" + (f"; the last checkpoint is {saved.name}" if saved else ""),
            )


def _evaluate(run: _Run) -> None:
    _require_finite_weights(run)
    evaluation = evaluate(
        run.model,
        run.data.val,
        token_bytes=run.data.vocabulary.token_byte_lengths(),
        rows=run.config.batch.rows,
        batches=run.config.run.eval_batches,
        dtype=run.dtype,
    )
    append_metric(run.folder, {"event": "eval", "step": run.step, **dataclasses.asdict(evaluation)})
    run.on_event(EvalEvent(step=run.step, evaluation=evaluation))


def _sample(run: _Run) -> None:
    _require_finite_weights(run)
    lines = isinstance(run.config.data, TextConfig) and run.config.data.documents == "lines"
    drawn = write(run.model, run.data.vocabulary, max_new_tokens=SAMPLE_IDS, lines=lines, seed=run.config.run.seed)
    text = "".join(drawn)
    append_metric(run.folder, {"event": "sample", "step": run.step, "text": text})
    run.on_event(SampleEvent(step=run.step, text=text))


SAMPLE_IDS = 200
"""How long the samples of the log are, in ids."""


def _save(run: _Run) -> None:
    _require_finite_weights(run)
    state = State(
        step=run.step,
        tokens=run.tokens,
        rung=run.config.rung,
        fingerprint=run.data.vocabulary.fingerprint,
        config=dump_config(run.config),
        batches={**run.batches.state(), "val_checksum": checksum(run.data.val)},
        rng=rng_state(),
    )
    keep = run.config.run.keep_checkpoints
    path = save(run.folder.checkpoints, run.model, run.optimizer, state, keep=keep)
    run.on_event(CheckpointEvent(step=run.step, path=path))


def _result(run: _Run) -> TrainResult:
    evaluations = [_evaluation_of(line) for line in read_metrics(run.folder) if line["event"] == "eval"]
    checkpoint = latest(run.folder.checkpoints)
    assert checkpoint is not None  # the last step saved one
    return TrainResult(
        steps=run.step,
        tokens=run.tokens,
        before=evaluations[0],
        after=evaluations[-1],
        checkpoint=checkpoint,
        seconds=time.perf_counter() - run.started,
    )


def _evaluation_of(line: dict[str, Any]) -> Evaluation:
    return Evaluation(**{field.name: line[field.name] for field in dataclasses.fields(Evaluation)})


@contextmanager
def _asked_to_stop() -> Iterator[list[signal.Signals]]:
    """A list that the first SIGINT or SIGTERM is put in; the second one acts at once, as it does elsewhere.

    Only the main thread may set handlers; in another one the list stays empty, and the caller has its own
    ways.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # None stands for a handler that was not set from Python; the default is the nearest that can be put back.
    before = {kind: signal.getsignal(kind) or signal.SIG_DFL for kind in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        put_back()

    def put_back() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in before:
        signal.signal(kind, handle)
    try:
        yield received
    finally:
        put_back()


def _ending(kind: signal.Signals, step: int) -> BaseException:
    if kind == signal.SIGTERM:
        return Preempted(
            f"train: stopped by SIGTERM after step {step}, checkpoint saved",
            hint="go on with `lm train … --resume`, or with the same `lm quickstart`",
        )
    return KeyboardInterrupt(f"stopped after step {step}, checkpoint saved")
