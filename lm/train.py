"""The training loop: one readable function, and the parts that it names.

What it promises: the targets of a step weigh alike, however they are cut in micro batches and shared out over
processes; every target of the split is learnt from once an epoch, unless rows are drawn; nothing but finite numbers
reaches the weights; and a run that was stopped and resumed ends with the very weights of an unbroken one (on the CPU
bit for bit; in another number of processes but for the order of sums, in float32).

For the last, nothing may depend on what happened before but the weights, the optimizer and the cursor: what dropout
drops is drawn anew for each micro batch from the seed and its place in the run.

On CUDA the host runs ahead: it asks for a step, and only then looks at the figures of the one before. A step whose loss
or gradient is not finite changes nothing, and neither does any after it, so nothing is lost by looking late.

It prints nothing. Whoever wants to watch passes `on_event`; whoever wants to know reads `metrics.jsonl`.
"""

import dataclasses
import gc
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lm.batches import checksum, mixed
from lm.checkpoint import State, latest, save
from lm.config import Config, TextConfig, dump_config
from lm.devices import device_name
from lm.diagnostics import watch
from lm.errors import NonFiniteError, OutOfMemory
from lm.evaluate import Evaluation, evaluate
from lm.events import CheckpointEvent, EvalEvent, Event, SampleEvent, StartEvent, StepEvent, TrainResult
from lm.flops import mfu
from lm.loss import count_targets
from lm.memory import advice_for_out_of_memory, is_out_of_memory
from lm.models import LADDER
from lm.models.contract import LanguageModel
from lm.opening import Made, Run, open_run
from lm.optim import set_learning_rate
from lm.parallel import autocast, fitting_threads
from lm.prefetch import Prefetch, to_device, to_host
from lm.run import RunFolder, append_metric, held, read_metrics
from lm.sample import write
from lm.schedule import rate_at
from lm.stopping import asked_to_stop, ending
from lm.tensorboard import TensorBoardWriter
from lm.world import World, accumulating, agree, clip_gradients, gathered, joined, own_part, sum_over, together


def train(
    config: Config,
    run_dir: str | Path,
    *,
    resume: bool | Literal["auto"] = False,
    max_seconds: float = math.inf,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Trains what a config describes, and leaves weights, log and settings in the run's folder.

    Under torchrun each process calls it, and they share the work. It seeds torch's global generator. Ctrl-C and SIGTERM
    let the step be finished and save a checkpoint; a second Ctrl-C does not wait.

    Args:
        config: the run; when resuming, the one it began with, but for `[data]`, the device, the processes and how often
            it evaluates, logs and saves.
        run_dir: the run's folder; made if it is not there.
        resume: go on from the latest checkpoint in `run_dir`; "auto": if there is one.
        max_seconds: end this call at the first step that is over after so long, with an evaluation and a checkpoint.
        on_event: called with each event as it happens; every step has one. Under torchrun in the main process only.

    Raises:
        ConfigError: if a setting is impossible on this machine.
        CheckpointError: if `run_dir` has a checkpoint and `resume` was not asked for, or the reverse, or it
            is damaged.
        IncompatibleError: if tokenizer, shards, checkpoint and config do not belong together.
        CorruptionError: if a file of the shards is not as it was written; all of them are read for that.
        DataError: if a split has fewer than two ids, or a text is too short for the model's context.
        NonFiniteError: if loss or gradient are nan or infinite; the weights were not updated.
        OutOfMemory: if a step does not fit the device.
        KeyboardInterrupt: after Ctrl-C; the checkpoint is saved.
        Preempted: after SIGTERM; the checkpoint is saved.
    """
    folder = RunFolder(Path(run_dir))
    with joined(config.run.device) as world, _alone_in(folder, world) as hold:
        with _fitting(config, world.device, "the run"):
            run = open_run(config, folder, world, resume=resume, on_event=on_event)
        hold()
        products = config.batch.rows * config.model.context * run.model.expected_parameters()
        with ExitStack() as stack:
            for context in (
                _board(run),
                fitting_threads(products),
                _reading_ahead(run),
                _quiet_collector(),
            ):
                stack.enter_context(context)
            _loop(run, stack.enter_context(asked_to_stop()), max_seconds)
        return _result(run)


def _loop(run: Run, asked: list[signal.Signals], max_seconds: float) -> None:
    """Steps, and what is due after each."""
    plan = run.config.run
    run.on_event(_start_event(run))
    if math.isinf(run.lowest):  # the run begins, or its log was lost
        _evaluate(run)
    while run.step < plan.steps:
        with _fitting(run.config, run.device, f"step {run.step + 1}"):
            _take_step(run)
        stop, late = _agreed(run, asked, max_seconds)
        last = run.step == plan.steps or late
        record = False
        if last or run.step % plan.eval_every == 0:
            record = _evaluate(run)
        if plan.sample_every and (last or run.step % plan.sample_every == 0):
            _sample(run)
        if last or stop or (record and plan.keep_best) or run.step % plan.checkpoint_every == 0:
            _save(run)
        if stop and not last:
            raise ending(stop, run.step)
        if last:
            break


def _start_event(run: Run) -> StartEvent:
    return StartEvent(
        rung=run.config.rung,
        parameters=run.model.expected_parameters(),
        vocab_size=run.data.vocabulary.n_vocab,
        train_tokens=run.data.train.tokens,
        val_tokens=run.data.val.tokens,
        step=run.step,
        device=device_name(run.device),
        dtype=str(run.dtype).removeprefix("torch."),
        compiled=run.config.run.compile,
        processes=run.world.size,
    )


@contextmanager
def _fitting(config: Config, device: torch.device, what: str) -> Iterator[None]:
    """Within, what does not fit the memory is an error that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        first = str(error).splitlines()[0]
        message = f"train: {what} must fit the memory of {device}, got: {first}"
        raise OutOfMemory(message, hint=advice_for_out_of_memory(config, device)) from error


@contextmanager
def _alone_in(folder: RunFolder, world: World) -> Iterator[Callable[[], None]]:
    """Within, main holds the folder, as soon as it is there; gives what is to be called when it may have been made."""
    with ExitStack() as stack:
        holding = False

        def hold() -> None:
            nonlocal holding
            with together(world):
                if world.is_main and not holding and folder.path.is_dir():
                    stack.enter_context(held(folder))
                    holding = True

        hold()
        yield hold


@contextmanager
def _board(run: Run) -> Iterator[None]:
    """Within, what goes to the log goes to TensorBoard too, if the settings wish it."""
    if not run.config.run.tensorboard or not run.world.is_main:
        yield
        return
    with TensorBoardWriter(run.folder.tensorboard, step=run.step) as run.board:
        yield
    run.board = None


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Within, Python's collector neither walks what is there already nor runs on its own; each evaluation lets it."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


@contextmanager
def _reading_ahead(run: Run) -> Iterator[None]:
    """Within, a thread prepares the next step's batches while the device computes this one's."""
    if run.device.type not in _READ_AHEAD_ON:
        yield
        return
    with Prefetch(run.batches, device=run.device, ahead=run.micro_batches) as run.batches:
        yield


_READ_AHEAD_ON = ("cuda",)  # on the CPU the thread would take the time from the model


# ---- a step ------------------------------------------------------------------------------------------------------


def _take_step(run: Run) -> None:
    """One update of the weights, from the step's micro batches in all processes."""
    plan, number = run.config.run, run.step + 1
    rate = rate_at(run.step, run.config)
    set_learning_rate(run.optimizer, rate)
    every = plan.diagnose_every
    diagnosed = every > 0 and (number in (1, plan.steps) or number % every == 0)
    place = run.batches.state()["position"]
    with watch(run.model) if diagnosed else nullcontext() as watching:
        losses, tokens = _accumulate(run, run.objective if diagnosed else run.forward)
        # An infinite limit clips nothing and still gives the norm.
        norm = clip_gradients(run.forward, run.config.optimizer.grad_clip or math.inf)
        loss = sum_over(run.world, losses.sum())
        figures, arrived = to_host(torch.stack([loss, norm, *losses]))
        made = Made(number=number, rate=rate, tokens=run.tokens + tokens, place=place, figures=figures, arrived=arrived)
        if run.lag:
            _hold_back_what_is_not_finite(run, loss, norm)
        else:
            _require_finite(run, made)
        run.optimizer.step()
        diagnosis = watching.diagnose() if watching else None
    run.step, run.tokens = made.number, made.tokens
    run.under_way.append(made)
    if diagnosis:
        _log(run, {"event": "diagnostics", "step": run.step, **diagnosis.to_json()})
    _look(run, leave=run.lag)


def _accumulate(run: Run, forward: nn.Module) -> tuple[Tensor, int]:
    """The losses of this process's micro batches, each divided by the targets of the whole step, and their number.

    It leaves the gradient of the step's mean loss on the parameters. The count of the whole step is known before the
    first backward pass, so every target weighs the same.
    """
    micro_batches = [next(run.batches) for _ in range(run.micro_batches)]
    (tokens,) = agree(run.world, sum(count_targets(targets_BT) for _, targets_BT in micro_batches))
    run.optimizer.zero_grad(set_to_none=True)
    losses = []
    for index, batch in enumerate(micro_batches):
        inputs_BT, targets_BT = to_device(batch, run.device)
        with accumulating(forward, last=index == len(micro_batches) - 1):
            _seed_dropout(run, index)
            with autocast(run.device, run.dtype):
                nats = forward(inputs_BT, targets_BT, run.documents(inputs_BT))
            loss = nats / max(1, tokens)
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses), tokens


def _seed_dropout(run: Run, index: int) -> None:
    """Gives what is drawn in this micro batch a seed that depends on its place in the run, and on no process."""
    if getattr(run.config.model, "dropout", 0) > 0:
        micro_batch = run.step * run.config.batch.accumulation + index * run.world.size + run.world.rank
        seed = mixed(run.config.run.seed, micro_batch)
        if run.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # the other one looks for all devices, 0.2 ms each time
        else:
            torch.manual_seed(seed)


def _hold_back_what_is_not_finite(run: Run, loss: Tensor, norm: Tensor) -> None:
    """Makes the optimizer change nothing, from now on, if loss or gradient are not finite; nobody waits for them.

    A flag on the device does it, as in torch's gradient scaler. The host finds out when it looks at the figures.
    """
    finite = torch.isfinite(loss) & torch.isfinite(norm)
    run.spoilt = torch.maximum(run.spoilt, (~finite).float())
    run.optimizer.found_inf = run.spoilt  # type: ignore[attr-defined]


def _look(run: Run, *, leave: int) -> None:
    """Looks at the figures of the steps under way, but for the last `leave`: checks, logs and reports them."""
    while len(run.under_way) > leave:
        made = run.under_way.popleft()
        if run.lag:
            _require_finite(run, made)
        loss, grad_norm, _ = made.read()
        speed = run.throughput.step(made.tokens)
        event = StepEvent(
            step=made.number,
            steps=run.config.run.steps,
            loss=loss,
            lr=made.rate,
            grad_norm=grad_norm,
            tokens=made.tokens,
            seconds=time.perf_counter() - run.started,
            tokens_per_second=speed,
            mfu=_mfu(run, speed) if speed else None,
        )
        if made.number % run.config.run.log_every == 0:
            line = {key: value for key, value in dataclasses.asdict(event).items() if key != "steps"}
            _log(run, {"event": "step", **line})
        run.on_event(event)


def _mfu(run: Run, tokens_per_second: float) -> float | None:
    name, tf32 = device_name(run.device), run.config.run.dtype == "tf32"
    return mfu(run.flops, tokens_per_second, name, run.dtype, world_size=run.world.size, tf32=tf32)


def _require_finite(run: Run, made: Made) -> None:
    loss, norm, losses = made.read()
    for name, value in (("loss", loss), ("grad_norm", norm)):
        if not math.isfinite(value):
            raise NonFiniteError(
                f"train: {name} must be finite, got {value} at step {made.number}{_place_of(run, made, losses)}",
                hint="the weights were not updated; lower optimizer.lr or set optimizer.grad_clip" + _saved(run),
            )


def _place_of(run: Run, made: Made, losses: list[float]) -> str:
    """Which rows of the data's order the first micro batch held whose loss is not finite, or the whole step."""
    rows, size = run.config.batch.rows, run.world.size
    if run.config.batch.order == "draws":
        return f", in the draws from {made.place} on"
    wrong = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
    if not wrong:
        return f", rows {made.place} to {made.place + rows * run.config.batch.accumulation - 1} of the run"
    first = made.place + (wrong[0] * size + run.world.rank) * rows
    return f", micro batch {wrong[0] * size + run.world.rank + 1}, rows {first} to {first + rows - 1} of the run"


def _saved(run: Run) -> str:
    checkpoint = latest(run.folder.checkpoints)
    return f"; the last checkpoint is {checkpoint.name}" if checkpoint else ""


def _agreed(run: Run, asked: list[signal.Signals], max_seconds: float) -> tuple[signal.Signals | None, bool]:
    """The signal that any process got, and whether the time is up; the same in all processes."""
    kind = asked[0] if asked else None  # read once: a signal may come at any moment
    late = time.perf_counter() - run.started > max_seconds
    interrupts, others, lates = agree(
        run.world, kind == signal.SIGINT, kind is not None and kind != signal.SIGINT, late
    )
    if others:
        return kind if kind not in (None, signal.SIGINT) else signal.SIGTERM, lates > 0
    return (signal.SIGINT if interrupts else None), lates > 0


# ---- what is due after a step ------------------------------------------------------------------------------------


def _require_finite_weights(run: Run) -> None:
    """A finite gradient times a huge rate may still overflow; such weights are neither shown nor saved."""
    if run.looked_at == run.step:
        return
    named = dict(run.model.named_parameters())
    finite = torch.stack([own_part(parameter.detach()).isfinite().all() for parameter in named.values()]).tolist()
    (anywhere,) = agree(run.world, not all(finite))
    if anywhere:
        wrong = next((name for name, fine in zip(named, finite, strict=True) if not fine), "a weight")
        raise NonFiniteError(
            f"train: {wrong} must be finite, got nan or inf after step {run.step}",
            hint="lower optimizer.lr" + _saved(run),
        )
    run.looked_at = run.step


def _evaluate(run: Run) -> bool:
    """Evaluates, logs and reports; whether the loss is the lowest so far."""
    _look(run, leave=0)
    _require_finite_weights(run)
    gc.collect()
    with _fitting(run.config, run.device, f"the evaluation after step {run.step}"):
        evaluation = evaluate(
            run.objective,
            run.data.val,
            token_bytes=run.data.vocabulary.token_byte_lengths(),
            rows=run.config.batch.rows,
            batches=run.config.run.eval_batches,
            dtype=run.dtype,
            documents=run.documents,
            world=run.world,
        )
    if not math.isfinite(evaluation.loss):
        message = f"train: the validation loss must be finite, got {evaluation.loss} after step {run.step}"
        raise NonFiniteError(message, hint="lower optimizer.lr" + _saved(run))
    _log(run, {"event": "eval", "step": run.step, **dataclasses.asdict(evaluation)})
    run.on_event(EvalEvent(step=run.step, evaluation=evaluation))
    run.throughput.pause_ended()
    run.last_evaluation = (run.step, evaluation)
    if run.lowest_of != evaluation.tokens:
        run.lowest, run.lowest_of = math.inf, evaluation.tokens
    record = evaluation.loss < run.lowest
    run.lowest = min(run.lowest, evaluation.loss)
    return record


def _sample(run: Run) -> None:
    _look(run, leave=0)
    _require_finite_weights(run)
    lines = isinstance(run.config.data, TextConfig) and run.config.data.documents == "lines"
    model = _whole_model(run)
    if not run.world.is_main:
        return
    drawn = write(model, run.data.vocabulary, max_new_tokens=SAMPLE_IDS, lines=lines, seed=run.config.run.seed)
    text = "".join(drawn)
    run.throughput.pause_ended()
    _log(run, {"event": "sample", "step": run.step, "text": text})
    run.on_event(SampleEvent(step=run.step, text=text))


def _whole_model(run: Run) -> LanguageModel:
    """The model, or where each process holds a part of it, one that main puts together."""
    if run.config.run.parallel == "ddp" or run.world.size == 1:
        return run.model
    tensors = gathered(run.model, run.world)
    with torch.device("meta"):
        model = LADDER[run.config.rung].build(run.config.model, run.model.vocab_size)
    if run.world.is_main:
        model.load_state_dict(tensors, assign=True)
    return model


SAMPLE_IDS = 200
"""How long the samples of the log are, in ids."""


def _save(run: Run) -> None:
    _look(run, leave=0)
    _require_finite_weights(run)
    step, evaluation = run.last_evaluation
    now = evaluation if step == run.step else None
    state = State(
        step=run.step,
        tokens=run.tokens,
        rung=run.config.rung,
        fingerprint=run.data.vocabulary.fingerprint,
        config=dump_config(run.config),
        batches={**run.batches.state(), "val_checksum": checksum(run.data.val)},
        val_loss=now.loss if now else None,
        val_tokens=now.tokens if now else None,
    )
    keep = run.config.run.keep_checkpoints
    path = save(run.folder.checkpoints, run.model, run.optimizer, state, keep=keep, world=run.world)
    if run.board is not None:
        run.board.flush()
    run.throughput.pause_ended()
    run.on_event(CheckpointEvent(step=run.step, path=path))


def _log(run: Run, line: dict[str, object]) -> None:
    if run.world.is_main:
        append_metric(run.folder, line)
        if run.board is not None:
            run.board.write(line)


def _result(run: Run) -> TrainResult:
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
