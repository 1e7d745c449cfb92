"""A run while it runs: its parts, how they are put together, and how a stopped one is found again."""

import dataclasses
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from bpetok.errors import IncompatibleError
from bpetok.files import write_atomically
from lm.alphabet import Alphabet
from lm.batches import Batches, Draws, checksum, require_same_split
from lm.checkpoint import Checkpoint, latest
from lm.config import BatchConfig, Config, config_from_toml, dump_config, load_config, settings
from lm.data import Data, documents_of_rows, open_data
from lm.errors import CheckpointError, require
from lm.evaluate import Evaluation
from lm.events import Event
from lm.flops import Throughput, flops_per_token
from lm.huggingface import gpt2_config_of, initial_weights, pretrained_folder, require_same_tokens
from lm.loss import Objective
from lm.models import LADDER
from lm.models.contract import CausalTransformer, LanguageModel
from lm.models.gpt2 import GPT2Config
from lm.optim import build
from lm.parallel import pick_dtype, set_tf32
from lm.prefetch import Prefetch
from lm.run import RunFolder, cut_metrics, read_metrics
from lm.schedule import rate_at
from lm.tensorboard import TensorBoardWriter
from lm.world import World, broadcast_text, main_first, shared, together


@dataclass(frozen=True, kw_only=True)
class Made:
    """A step that was asked for, and whose figures may still be under way to the host.

    Args:
        number: the step, from 1.
        rate: its learning rate.
        tokens: targets learnt from so far.
        place: the first of its rows, in the order of the data.
        figures: on the CPU: the mean loss over the step's targets, the norm of the gradient before clipping, and the
            loss of each of this process's micro batches, divided by the step's targets.
        arrived: on CUDA, when they are there.
    """

    number: int
    rate: float
    tokens: int
    place: int
    figures: Tensor
    arrived: torch.cuda.Event | None

    def read(self) -> tuple[float, float, list[float]]:
        """Loss, norm and the losses of the micro batches; waits for this step, and for none asked for since."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, norm, *losses = self.figures.tolist()
        return loss, norm, losses


@dataclass(kw_only=True)
class Run:
    """The parts of a run while it runs, and how far it has come.

    Args:
        config: its settings.
        folder: where it lies.
        world: the processes that share it.
        data: what it reads.
        model: the bare model.
        objective: the model with its loss, not compiled: what is evaluated.
        forward: what a step runs: the objective, compiled or shared out over the processes as the settings want it.
        optimizer: over the model's parameters.
        batches: where the next rows come from.
        dtype: of the matrix products.
        documents: gives documents_BT of a batch's inputs, or None where attention reads across documents.
        on_event: called with each event, in the main process.
        started: when this call began, by `time.perf_counter`.
        step: updates made.
        tokens: targets learnt from.
        lowest: the lowest validation loss so far, in nats per token.
        lowest_of: over how many targets that was; over others a loss is another figure.
        lag: how many steps may be under way whose figures nobody has looked at; 0 where the host waits for each.
        spoilt: 1 on the device once a loss or a gradient was not finite, else 0; the optimizer then changes nothing.
        looked_at: after which step all weights were last found finite.
        under_way: steps whose figures were not looked at yet.
        throughput: of the last steps.
        flops: of a token, forward and backward; None where it is not known.
        last_evaluation: after which step the last one was, and what it gave.
        board: TensorBoard's log, if one is wished for.
    """

    config: Config
    folder: RunFolder
    world: World
    data: Data
    model: LanguageModel
    objective: Objective
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches | Draws | Prefetch
    dtype: torch.dtype
    documents: Callable[[Tensor], Tensor | None]
    on_event: Callable[[Event], None]
    started: float
    step: int = 0
    tokens: int = 0
    lag: int
    spoilt: Tensor
    flops: int | None
    lowest: float = math.inf
    lowest_of: int = 0
    looked_at: int = -1
    under_way: deque[Made] = field(default_factory=deque)
    throughput: Throughput = field(default_factory=Throughput)
    last_evaluation: tuple[int, Evaluation | None] = (-1, None)
    board: TensorBoardWriter | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.world.device

    @property
    def micro_batches(self) -> int:
        """How many micro batches of a step this process takes."""
        return self.config.batch.accumulation // self.world.size


def open_run(
    config: Config,
    folder: RunFolder,
    world: World,
    *,
    resume: bool | Literal["auto"],
    on_event: Callable[[Event], None] | None = None,
) -> Run:
    """Everything that a run needs, from its beginning or from its latest checkpoint on.

    Args:
        config: the run.
        folder: where it lies; all processes see the same one.
        world: the processes that share it.
        resume: go on from the latest checkpoint; "auto": if there is one.
        on_event: called with each event; only in the main process.

    Raises:
        ConfigError: if a setting is impossible on this machine or for this rung.
        CheckpointError: if the folder has a checkpoint and `resume` was not asked for, or the reverse, or it is
            damaged, or not there for all processes.
        IncompatibleError: if tokenizer, shards, checkpoint and config do not belong together.
        CorruptionError: if a file of the shards is not as it was written.
        DataError: if a split is too short.
        LmError: if another process could not open the run.
    """
    started = time.perf_counter()
    dtype = pick_dtype(config.run.dtype, world.device)
    set_tf32(config.run.dtype, world.device)
    path = _checkpoint_to_resume(folder, world, resume)
    with together(world):
        data = open_data(config, verify=world.is_main)
        documents = documents_of_rows(config, separator=data.separator, stands=data.stands)
        checkpoint = None if path is None else _checkpoint_of_this_run(path, config)
    model = build_model(config, data, world, begin=checkpoint is None).to(world.device)
    _require_fits(config, model, world)
    objective = Objective(model)
    run = Run(
        config=config,
        folder=folder,
        world=world,
        data=data,
        model=model,
        objective=objective,
        forward=_forward(config, objective, world, dtype),
        optimizer=build(model, config.optimizer, dtype),
        batches=open_batches(config, data, checkpoint.state.batches if checkpoint else None, world=world),
        dtype=dtype,
        documents=documents,
        on_event=on_event if on_event and world.is_main else (lambda event: None),
        started=started,
        lag=1 if world.device.type == "cuda" else 0,
        flops=flops_per_token(model, config.model.context),
        spoilt=torch.zeros((), device=world.device),
    )
    if checkpoint is not None:
        _resume(run, checkpoint)
    with together(world):
        if world.is_main:
            _write_settings(run)
    return run


def begin_with(config: Config, name_or_folder: str | Path) -> Config:
    """The config of a run that begins with GPT-2's weights: of their sizes, its context no longer than theirs.

    Args:
        config: the run; its data, batches, optimizer and dropout stay.
        name_or_folder: as `lm.huggingface.pretrained_folder` takes it; what is not here is downloaded.

    Raises:
        ConfigError, UnavailableError: if it is neither a folder nor a known name, or cannot be downloaded.
        FormatError, IncompatibleError: if it holds no GPT-2.
    """
    theirs = gpt2_config_of(pretrained_folder(name_or_folder))
    dropout = getattr(config.model, "dropout", 0.0)
    model = dataclasses.replace(theirs, context=min(theirs.context, config.model.context), dropout=dropout)
    path = Path(name_or_folder)
    run = dataclasses.replace(config.run, init_from=path.resolve() if path.is_dir() else path)
    return dataclasses.replace(config, rung="gpt2", model=model, run=run)


def build_model(config: Config, data: Data, world: World, *, begin: bool) -> LanguageModel:
    """The model of a run on the CPU: its first weights drawn from `run.seed`, or those of `run.init_from`.

    It seeds torch's global generator. Drawn on the CPU, so that every device begins with the same weights.

    Args:
        config: the run.
        data: what it reads.
        world: the processes that share the run; main downloads for all.
        begin: whether the run begins; a resumed one gets its weights elsewhere.

    Raises:
        ConfigError: if only another rung can begin with given weights.
        IncompatibleError: if the weights to begin with are of another size or another tokenizer.
    """
    torch.manual_seed(config.run.seed)
    model = LADDER[config.rung].build(config.model, data.vocabulary.n_vocab)
    if isinstance(model, CausalTransformer):
        model.recompute = config.run.recompute
    if begin and config.run.init_from is not None:
        require(isinstance(config.model, GPT2Config), "model.rung", "gpt2 where run.init_from is set", config.rung)
        with main_first(world):
            folder = pretrained_folder(config.run.init_from)
        require_same_tokens(folder, data.vocabulary)
        model.load_state_dict(initial_weights(folder, cast("GPT2Config", config.model), data.vocabulary.n_vocab))
    return model


def _forward(config: Config, objective: Objective, world: World, dtype: torch.dtype) -> nn.Module:
    """What a step runs. FSDP changes the objective itself, so it comes before compiling; DDP wraps what is compiled."""

    def compiled(module: nn.Module) -> nn.Module:
        return cast("nn.Module", torch.compile(module, dynamic=False)) if config.run.compile else module

    if config.run.parallel == "fsdp":
        return compiled(shared(objective, "fsdp", world, dtype))
    return shared(cast("Objective", compiled(objective)), "ddp", world, dtype)


def _require_fits(config: Config, model: LanguageModel, world: World) -> None:
    """Nothing, where the settings fit the rung and the processes."""
    batch, run = config.batch, config.run
    fits = batch.accumulation % world.size == 0
    hint = _as_many_rows(batch, world.size)
    require(fits, "batch.accumulation", f"a multiple of the {world.size} processes", batch.accumulation, hint)
    transformer = isinstance(model, CausalTransformer)
    able = ", ".join(name for name in LADDER if name in ("gpt2", "modern"))
    require(transformer or batch.documents == "joined", "batch.documents", f"joined, but for {able}", batch.documents)
    require(transformer or not run.recompute, "run.recompute", f"false, but for {able}", run.recompute)
    require(transformer or run.parallel == "ddp", "run.parallel", f"ddp, but for {able}", run.parallel)
    # A diagnosis looks at whole weights and at one batch; a process has a part of them.
    alone = world.size == 1 or run.diagnose_every == 0
    hint = "--set run.diagnose_every=0"
    require(alone, "run.diagnose_every", f"0 in {world.size} processes", run.diagnose_every, hint)
    device = world.device.type
    require(not run.compile or device != "mps", "run.compile", f"false on run.device = {device}", True)


def _as_many_rows(batch: BatchConfig, processes: int) -> str:
    """Which settings share out the rows of a step without changing their number."""
    for parts in range(2, batch.rows + 1):
        if batch.rows % parts == 0 and batch.accumulation * parts % processes == 0:
            return f"--set batch.rows={batch.rows // parts} --set batch.accumulation={batch.accumulation * parts}"
    fitting = [n for n in range(1, batch.accumulation + 1) if batch.accumulation % n == 0]
    return f"start {' or '.join(map(str, fitting))} processes"


def _checkpoint_to_resume(folder: RunFolder, world: World, resume: bool | Literal["auto"]) -> Path | None:
    """The checkpoint that main finds, for all: what the others see of the folder may be older."""
    found = latest(folder.checkpoints)
    name = broadcast_text(world, found.name if found else "")
    if resume is True and not name:
        message = f"{folder.path}: a run to resume must have a checkpoint, got none"
        raise CheckpointError(message, hint="start it anew, without resume")
    if resume is False and name:
        message = f"{folder.path}: a new run's folder must have no checkpoint, got {name}"
        raise CheckpointError(message, hint="go on with --resume, or take another folder")
    return folder.checkpoints / name if name else None


def _checkpoint_of_this_run(path: Path, config: Config) -> Checkpoint:
    checkpoint = Checkpoint(path)
    # The settings first: their names say more than those of tensors.
    began = config_from_toml(checkpoint.state.config, where=str(path))
    _require_same_run(config, began, checkpoint.state.step, path)
    return checkpoint


def _resume(run: Run, checkpoint: Checkpoint) -> None:
    """Puts a run where its checkpoint was saved."""
    state = checkpoint.state
    checkpoint.fill(run.model, run.optimizer, rung=run.config.rung, fingerprint=run.data.vocabulary.fingerprint)
    val = checksum(run.data.val)
    require_same_split({"val_checksum": val, **state.batches}, val_checksum=val)
    run.step, run.tokens = state.step, state.tokens
    seen = ""
    with together(run.world):
        if run.world.is_main:
            cut_metrics(run.folder, run.step)
            seen = json.dumps(_lowest(read_metrics(run.folder)))
    run.lowest, run.lowest_of = json.loads(broadcast_text(run.world, seen))


def _lowest(metrics: Sequence[Mapping[str, Any]]) -> tuple[float, int]:
    """The lowest validation loss of those over as many targets as the last one, and that number."""
    evaluations = [line for line in metrics if line["event"] == "eval"]
    if not evaluations:
        return math.inf, 0
    tokens = evaluations[-1]["tokens"]
    return min(line["loss"] for line in evaluations if line["tokens"] == tokens), tokens


def open_batches(
    config: Config, data: Data, cursor: Mapping[str, int] | None = None, *, world: World | None = None
) -> Batches | Draws:
    """The batches of a run, those of this process.

    Args:
        config: the run.
        data: what it reads.
        cursor: where they go on, from a checkpoint; None from the beginning. Draws begin where torch's global
            generator stands, so the model must just have been built.
        world: the processes that share the run; this one alone when left out.

    Raises:
        IncompatibleError: if the cursor is of another split, context or number of rows.
    """
    rank, size = (world.rank, world.size) if world else (0, 1)
    rows, context = config.batch.rows, config.model.context
    if config.batch.order == "draws":
        if cursor is None:
            return Draws(data.train, rows=rows, context=context, rank=rank, world_size=size)
        return Draws.from_state(data.train, cursor, rows=rows, context=context, rank=rank, world_size=size)
    if cursor is None:
        return Batches(data.train, rows=rows, context=context, seed=config.run.seed, rank=rank, world_size=size)
    return Batches.from_state(data.train, cursor, rows=rows, context=context, rank=rank, world_size=size)


def _require_same_run(config: Config, begun_with: Config, steps: int, checkpoint: Path) -> None:
    """Nothing that decides the weights may change but device and processes: a resumed run is the same run.

    How the rows of a step are cut into micro batches may change where they are taken in order and each by itself; the
    learning rate may, behind the steps that were made.
    """
    began, now = settings(begun_with), settings(config)
    free = {f"schedule.{key}" for key in ("decay_steps", "decay_share")}
    if config.rung in BY_ROWS and config.batch.order == "epochs":
        free |= {"batch.rows", "batch.accumulation"}
        for figures in (began, now):
            figures["batch.rows x accumulation"] = cast("int", figures["batch.rows"]) * cast(
                "int", figures["batch.accumulation"]
            )
    names = [name for name in sorted(began.keys() | now.keys()) if not name.startswith(("data.", "run."))]
    for name in ["model.rung", *names, "run.seed", "run.dtype"]:
        if name not in free:
            _require_equal(name, began.get(name), now.get(name), checkpoint)
    for step in range(steps):
        rates = rate_at(step, begun_with), rate_at(step, config)
        if rates[0] != rates[1]:
            name = f"the learning rate of step {step + 1} (run.steps, schedule.decay_steps)"
            _require_equal(name, *rates, checkpoint)


BY_ROWS = ("gpt2", "modern")
"""The rungs that take each row by itself: a step is the same however its rows are cut into micro batches, but for what
dropout drops."""


def _require_equal(name: str, began: object, now: object, checkpoint: Path) -> None:
    if began != now:
        message = f"{checkpoint}: {name} must be {began}, as the run began, got {now}"
        raise IncompatibleError(message, hint="resume with the run's own config.toml, or start a new run")


def _write_settings(run: Run) -> None:
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
        if not folder.metrics.exists():  # no run's folder, or none of ours
            message = f"{folder.config}: a new run's folder must not hold another run's settings"
            raise CheckpointError(message, hint="take another folder, or remove this one")
        write_atomically(folder.config, dump_config(config, folder.path).encode())  # nothing of that run is left
    if run.step == 0:
        folder.metrics.write_text("", encoding="utf-8")
