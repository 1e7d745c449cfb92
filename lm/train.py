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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

import bpetok
import bpetok.shards
from bpetok.errors import IncompatibleError
from bpetok.files import write_atomically
from lm.batches import Batches
from lm.checkpoint import State, latest, load, rng_state, save, set_rng_state
from lm.config import Config, config_from_toml, dump_config, load_config, settings
from lm.errors import CheckpointError, ConfigError, NonFiniteError, Preempted
from lm.evaluate import Evaluation, evaluate
from lm.loss import count_targets, cross_entropy
from lm.models import LADDER
from lm.models.contract import LanguageModel
from lm.optim import adamw, set_learning_rate
from lm.parallel import autocast, pick_device, pick_dtype, require_one_process
from lm.prefetch import Prefetch, to_device
from lm.run import RunFolder, append_metric, cut_metrics, read_metrics
from lm.schedule import learning_rate


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


Event = StepEvent | EvalEvent | CheckpointEvent


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
        DataError: if a split has fewer than two ids.
        NonFiniteError: if loss or gradient are nan or infinite; the weights were not updated.
        KeyboardInterrupt: after Ctrl-C; the checkpoint is saved.
        Preempted: after SIGTERM; the checkpoint is saved.
    """
    run = _open(config, RunFolder(Path(run_dir)), resume=resume, on_event=on_event)
    plan = config.run
    with _reading_ahead(run), _asked_to_stop() as stopped_by:
        if run.step == 0:
            _evaluate(run)
        while run.step < plan.steps:
            _take_step(run)
            last = run.step == plan.steps or time.perf_counter() - run.started > max_seconds
            if last or run.step % plan.eval_every == 0:
                _evaluate(run)
            stop = stopped_by[0] if stopped_by and not last else None  # read once: a signal may come at any moment
            if last or stop or run.step % plan.checkpoint_every == 0:
                _save(run)
            if stop:
                raise _ending(stop, run.step)
            if last:
                break
    return _result(run)


@dataclass(kw_only=True)
class _Run:
    """The parts of a run while it runs, and how far it has come."""

    config: Config
    folder: RunFolder
    tokenizer: bpetok.Tokenizer
    shards: bpetok.shards.ShardSet
    model: LanguageModel
    forward: Callable[[Tensor], Tensor]  # the model, or its compiled twin over the same weights
    optimizer: torch.optim.Optimizer
    batches: Batches | Prefetch
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
    if not config.data.tokenizer.is_file():
        message = f"data.tokenizer must be a file, got {config.data.tokenizer}"
        raise ConfigError(message, hint="--set data.tokenizer=my.bpetok --set data.shards=shards")
    tokenizer = bpetok.load(config.data.tokenizer)
    shards = bpetok.shards.open(config.data.shards)
    shards.check(tokenizer)
    shards.verify()  # what was altered on the way here is found before a run, not after it
    torch.manual_seed(config.run.seed)
    # Drawn on the CPU and moved, so that every device begins with the same weights.
    model = LADDER[config.rung].build(config.model, tokenizer.n_vocab).to(device)
    run = _Run(
        config=config,
        folder=folder,
        tokenizer=tokenizer,
        shards=shards,
        model=model,
        forward=torch.compile(model) if config.run.compile else model,
        optimizer=adamw(model, config.optimizer),
        batches=Batches(shards.train, rows=config.batch.rows, context=config.model.context, seed=config.run.seed),
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
    fingerprint = run.tokenizer.fingerprint
    state = load(checkpoint, run.model, run.optimizer, rung=run.config.rung, fingerprint=fingerprint)
    _require_same_run(run.config, config_from_toml(state.config, where=str(checkpoint)), checkpoint)
    context = run.config.model.context
    run.batches = Batches.from_state(run.shards.train, state.batches, rows=run.config.batch.rows, context=context)
    run.step, run.tokens = state.step, state.tokens
    cut_metrics(run.folder, run.step)
    if not any(line["event"] == "eval" for line in read_metrics(run.folder)):  # the log was lost
        _evaluate(run)
    set_rng_state(state.rng)


def _require_same_run(config: Config, begun_with: Config, checkpoint: Path) -> None:
    """Nothing that decides the weights may change but the device: a resumed run is the same run."""
    began, now = settings(begun_with), settings(config)
    names = [name for name in sorted(began.keys() | now.keys()) if not name.startswith(("data.", "run."))]
    for name in [*names, "run.seed", "run.dtype"]:
        _require_equal(name, began.get(name), now.get(name), checkpoint)
    # With no schedule.decay_steps, another number of steps is another learning rate at each.
    _require_equal("the step at which the rate is lowest", begun_with.decay_steps, config.decay_steps, checkpoint)


def _require_equal(name: str, began: object, now: object, checkpoint: Path) -> None:
    if began != now:
        message = f"{checkpoint}: {name} must be {began}, as the run began, got {now}"
        raise IncompatibleError(message, hint="resume with the run's own config.toml, or start a new run")


def _write_settings(run: _Run) -> None:
    """The config, unless it lies there already; the tokenizer; an empty log, where the run begins."""
    folder, config = run.folder, run.config
    folder.path.mkdir(parents=True, exist_ok=True)
    if config.data.tokenizer != folder.tokenizer.resolve():
        run.tokenizer.save(folder.tokenizer)
        data = dataclasses.replace(config.data, tokenizer=folder.tokenizer)
        config = dataclasses.replace(config, data=data)
    if not folder.config.exists():
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
    rate = learning_rate(
        run.step,
        peak=optimizer.lr,
        floor=schedule.min_lr,
        warmup_steps=schedule.warmup_steps,
        decay_steps=run.config.decay_steps,
    )
    set_learning_rate(run.optimizer, rate)
    loss, tokens = _accumulate(run)
    # An infinite limit clips nothing and still gives the norm.
    limit = optimizer.grad_clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit).item()
    _require_finite(run, loss=loss, grad_norm=norm)
    run.optimizer.step()
    run.step += 1
    run.tokens += tokens
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


def _accumulate(run: _Run) -> tuple[float, int]:
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
            loss = cross_entropy(run.forward(inputs_BT), targets_BT, count=tokens)
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


def _evaluate(run: _Run) -> None:
    evaluation = evaluate(
        run.model,
        run.shards.val,
        token_bytes=run.tokenizer.token_byte_lengths(),
        rows=run.config.batch.rows,
        batches=run.config.run.eval_batches,
        dtype=run.dtype,
    )
    append_metric(run.folder, {"event": "eval", "step": run.step, **dataclasses.asdict(evaluation)})
    run.on_event(EvalEvent(step=run.step, evaluation=evaluation))


def _save(run: _Run) -> None:
    state = State(
        step=run.step,
        tokens=run.tokens,
        rung=run.config.rung,
        fingerprint=run.tokenizer.fingerprint,
        config=dump_config(run.config),
        batches=run.batches.state(),
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
