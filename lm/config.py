"""A run's settings: frozen dataclasses, and a strict reader and writer of the TOML file that holds them.

One file is one run. Its tables are the fields of `Config`; `[model]` names its rung, and its other keys are
those of the rung's own config dataclass (`lm.models.LADDER`). The size of the vocabulary is not in the file:
the tokenizer has it. `model.size = "gpt2-355m"` stands for the context, layers, heads and width of that published size.

    [data]       shards, tokenizer; or text, alphabet, documents, rows, ...
    [model]      rung, context, ...
    [batch]      rows, accumulation, order, documents
    [optimizer]  kind, lr, betas, eps, weight_decay, grad_clip, matrix_lr, momentum
    [schedule]   kind, warmup_steps, min_lr, decay_steps, decay_share
    [run]        steps, seed, eval_every, ...

An unknown, missing or mistyped key is an error that names the file, the dotted key and the nearest valid
name.
"""

import dataclasses
import difflib
import json
import math
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from lm.errors import ConfigError, require
from lm.models import LADDER
from lm.texts import KNOWN

if TYPE_CHECKING:
    from lm.models.contract import RungConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """`[data]` with `shards`: a folder of ids, made before.

    In a file, relative paths start at the file's own folder; in an override, as in Python, at the current
    one. The config itself holds absolute paths, and so does the copy in a run's folder.

    Args:
        shards: the folder that `bpetok shard` wrote.
        tokenizer: the tokenizer's file; its fingerprint must be that of the shards.
    """

    shards: Path
    tokenizer: Path

    def __post_init__(self) -> None:
        """Makes the paths absolute."""
        for key in ("shards", "tokenizer"):
            object.__setattr__(self, key, Path(getattr(self, key)).resolve())


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """`[data]` with `text`: a file of text that fits the memory, read at the start of a run.

    Args:
        text: a file of UTF-8, or the name of one of the lectures' texts (`lm.texts.KNOWN`).
        alphabet: what an id stands for: a character of the text, or a byte.
        tokenizer: a tokenizer's file in the place of `alphabet`.
        documents: "lines" where each line is a document by itself, as in a list of names; else "whole".
        rows: what a training row is: "blocks" of `context` ids, "windows" of the model's window with one id to predict
            (the lectures' way), or "lines", each document by itself.
        held_out: the share of the text that validation gets; its end, or with "lines" as many lines in the lectures'
            order, and once more as many that are put aside as a test.
    """

    text: Path
    alphabet: Literal["characters", "bytes"] = "characters"
    tokenizer: Path | None = None
    documents: Literal["whole", "lines"] = "whole"
    rows: Literal["blocks", "windows", "lines"] = "blocks"
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Makes the paths absolute and checks the values; raises ConfigError."""
        if str(self.text) not in KNOWN:
            object.__setattr__(self, "text", Path(self.text).resolve())
        if self.tokenizer is not None:
            object.__setattr__(self, "tokenizer", Path(self.tokenizer).resolve())
        alone = self.tokenizer is None or self.alphabet == "characters"
        require(alone, "data.alphabet", "left out where there is data.tokenizer", self.alphabet)
        require(0 < self.held_out < 0.5, "data.held_out", "above 0 and below 0.5", self.held_out)
        fits = self.documents == "lines" or self.rows != "lines"
        require(fits, "data.rows", "blocks or windows, unless data.documents is lines", self.rows)


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """`[batch]`: how much is learnt from at once; T is the model's context.

    Args:
        rows: B, the rows of one micro batch, which must fit the device's memory.
        accumulation: micro batches per step, of all processes together; a step learns from rows * accumulation *
            context ids, whatever their number.
        order: "epochs" takes every row once before any comes again; "draws" takes rows at random, as the lectures do.
        documents: "joined" where attention reads across the documents of a row, "apart" where it stays within each.
    """

    rows: int
    accumulation: int = 1
    order: Literal["epochs", "draws"] = "epochs"
    documents: Literal["joined", "apart"] = "joined"

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        _require_at_least(1, "batch", self, "rows", "accumulation")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """`[optimizer]`.

    Args:
        kind: "adamw"; "muon", which is Muon for the matrices of the blocks and AdamW for the rest; or "sgd", plain
            gradient descent, of whose keys only `lr` and `grad_clip` count.
        lr: the highest learning rate.
        betas: the decay of the running means of the gradient and of its square, each in [0, 1).
        eps: added to the root of the mean square.
        weight_decay: of tensors with two dimensions or more.
        grad_clip: the gradient's norm is scaled down to this; 0 for no clipping.
        matrix_lr: the highest learning rate of Muon's matrices; the schedule scales it as it does `lr`. Of no meaning
            without Muon, as `momentum`.
        momentum: of Muon, in [0, 1).
    """

    kind: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    matrix_lr: float = 0.02
    momentum: float = 0.95

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        require(0 < self.lr < math.inf, "optimizer.lr", "above 0 and finite", self.lr)
        require(all(0 <= beta < 1 for beta in self.betas), "optimizer.betas", "in [0, 1)", self.betas)
        require(self.eps > 0, "optimizer.eps", "above 0", self.eps)
        require(0 < self.matrix_lr < math.inf, "optimizer.matrix_lr", "above 0 and finite", self.matrix_lr)
        require(0 <= self.momentum < 1, "optimizer.momentum", "in [0, 1)", self.momentum)
        _require_at_least(0, "optimizer", self, "weight_decay", "grad_clip")
        require(self.weight_decay < math.inf, "optimizer.weight_decay", "finite", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """`[schedule]`: the learning rate over the steps.

    Args:
        kind: "cosine", a linear warmup and half a cosine down; "wsd", a warmup, the highest rate (stable) and at the
            end a straight line down; or "drop": the highest rate, and from `decay_steps` on `min_lr`, as in
            the lectures.
        warmup_steps: steps until the highest rate; 0 for none.
        min_lr: the rate at the end, absolute (not a ratio).
        decay_steps: the step at which `min_lr` is reached; the run's last step when left out.
        decay_share: over which last share of `decay_steps` "wsd" falls, in (0, 1]; of no meaning for the others.
    """

    kind: Literal["cosine", "wsd", "drop"] = "cosine"
    warmup_steps: int
    min_lr: float
    decay_steps: int | None = None
    decay_share: float = 0.2

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        _require_at_least(0, "schedule", self, "warmup_steps", "min_lr")
        require(0 < self.decay_share <= 1, "schedule.decay_share", "in (0, 1]", self.decay_share)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """`[run]`: how long, how often, on what.

    Args:
        steps: updates of the weights.
        seed: of the first weights, the dropout and the order of the data.
        eval_every: steps between evaluations; the first and the last step are always evaluated.
        eval_batches: micro batches of the validation split that an evaluation reads, always the same.
        checkpoint_every: steps between checkpoints; the last step always has one.
        log_every: steps between the lines of `metrics.jsonl`.
        diagnose_every: steps between diagnoses of activations and gradients (`lm.diagnostics`); the first and the last
            step always have one; 0 for none at all.
        sample_every: steps between samples that go to the log; 0 for none.
        keep_checkpoints: how many of the latest checkpoints stay on disk; 0 for all.
        keep_best: also save at each evaluation that is the best so far, and keep that one.
        init_from: a folder with GPT-2's weights as Hugging Face has them, or a name that it has for them ("gpt2"), to
            begin with instead of random weights.
        recompute: drop the activations within a block and compute them again in the backward pass (activation
            checkpointing): a third more work, far less memory. For gpt2 and modern.
        parallel: how several processes (torchrun) share the work: "ddp", each holds the whole model, or "fsdp", each
            holds a part of weights, gradients and optimizer.
        tensorboard: also write the log as TensorBoard reads it.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        compile: run the steps through `torch.compile`, which takes a minute at the start; on the CPU it wants a C++
            compiler.
        dtype: of the matrix products; "auto" is bfloat16 on CUDA and float32 elsewhere; "tf32" is for CUDA.
    """

    steps: int
    seed: int = 1337
    eval_every: int
    eval_batches: int
    checkpoint_every: int
    log_every: int = 1
    diagnose_every: int = 0
    sample_every: int = 0
    keep_checkpoints: int = 2
    keep_best: bool = False
    init_from: Path | None = None
    recompute: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    tensorboard: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: bool = False
    dtype: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        counts = ("steps", "eval_every", "eval_batches", "checkpoint_every", "log_every")
        _require_at_least(1, "run", self, *counts)
        _require_at_least(0, "run", self, "seed", "keep_checkpoints", "diagnose_every", "sample_every")
        require(self.seed < 2**63, "run.seed", "below 2**63", self.seed)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run.

    Args:
        rung: the model's name in `lm.models.LADDER`; `model.rung` in the file.
        model: the rung's own config.

    Raises:
        ConfigError: if two settings contradict each other; both are named.
    """

    data: DataConfig | TextConfig
    rung: str
    model: "RungConfig"
    batch: BatchConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    run: RunConfig

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        _require_rung(self.rung)
        kind = LADDER[self.rung].config
        require(type(self.model) is kind, "model", f"a {kind.__name__} for rung {self.rung!r}", self.model)
        lr, end = self.optimizer.lr, self.decay_steps
        require(
            self.schedule.min_lr <= lr,
            "schedule.min_lr",
            f"at most optimizer.lr = {lr}",
            self.schedule.min_lr,
        )
        end_name = "run.steps" if self.schedule.decay_steps is None else "schedule.decay_steps"
        warmup = self.schedule.warmup_steps
        hint = f"--set schedule.warmup_steps={end // 10}"
        require(warmup <= end, "schedule.warmup_steps", f"at most {end_name} = {end}", warmup, hint)

    @property
    def decay_steps(self) -> int:
        """The step at which the learning rate has come down to its end."""
        return self.run.steps if self.schedule.decay_steps is None else self.schedule.decay_steps


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name.

    >>> sorted(shipped_configs())
    ['02-bigram', '03-mlp', '04-batchnorm', '04-kaiming', '06-dilated', '06-wavenet', '07-bow', '07-gru', '07-rnn', \
'08-attention', '08-names-transformer', '08-shakespeare-char', '08-shakespeare-char-cpu', \
'08-shakespeare-char-cpu-fast', '09-gpt2-124m', '09-gpt2-124m-muon', '10-modern-124m', 'shakespeare-bpe-cpu']
    """
    folder = Path(str(files("lm") / "configs"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The run that a TOML file describes.

    Args:
        path: the file.
        overrides: settings that go before those of the file, each as `table.key=value`; the value is read as
            TOML, and as a plain string where it is none (`run.device=cpu`).

    Raises:
        ConfigError: if the file is not there or is no TOML, or a key is unknown, missing, mistyped or
            impossible.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: config must be a readable file, got {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: config must be UTF-8, got {error}") from error
    return config_from_toml(text, folder=path.parent, overrides=overrides, where=str(path))


def config_from_toml(
    text: str, *, folder: Path = Path(), overrides: Sequence[str] = (), where: str = "config"
) -> Config:
    """The run that a TOML text describes.

    Args:
        text: as in a file.
        folder: where the text's relative paths start.
        overrides: as in `load_config`.
        where: what errors call the text.

    Raises:
        ConfigError: as in `load_config`.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: config must be TOML, got {error}") from error
    try:
        _place_paths(tables, folder)
        # Shards or text first, whatever their place: the other keys of [data] belong to them.
        for override in sorted(overrides, key=lambda text: not re.match(r"\s*data\.(text|shards)\b", text)):
            _apply_override(tables, override)
        return _config_from(tables)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error


def dump_config(config: Config, folder: Path | None = None) -> str:
    """The TOML text of a config, every setting written out; `load_config` reads it back to an equal one.

    Args:
        config: the config.
        folder: where the text will lie; paths below it are written relative to it, so that it can be moved.
    """
    tables = {name: dataclasses.asdict(getattr(config, name)) for name in _TABLES}
    for key, path in tables["data"].items():
        if folder is not None and isinstance(path, Path) and path.is_relative_to(folder.resolve()):
            tables["data"][key] = path.relative_to(folder.resolve())
    tables["model"] = {"rung": config.rung, **tables["model"]}
    blocks = []
    for name, table in tables.items():
        lines = [f"{key} = {_to_toml(value)}" for key, value in table.items() if value is not None]
        blocks.append("\n".join([f"[{name}]", *lines]) + "\n")
    return "\n".join(blocks)


def settings(config: Config) -> dict[str, object]:
    """Every setting by its dotted key, `model.rung` among them; for comparing two runs.

    Returns:
        for example `{"data.shards": Path(...), ..., "run.steps": 100, ...}`.
    """
    flat: dict[str, object] = {"model.rung": config.rung}
    for table in _TABLES:
        for key, value in dataclasses.asdict(getattr(config, table)).items():
            flat[f"{table}.{key}"] = value
    return flat


_TABLES = {
    "data": None,  # shards or text
    "model": None,  # the rung's own
    "batch": BatchConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "run": RunConfig,
}


# What an override of one key of [data] takes the place of: shards are no text.
_TEXT_KEYS = {field.name for field in dataclasses.fields(TextConfig)} - {"tokenizer"}
_INSTEAD = {"shards": _TEXT_KEYS, "tokenizer": {"alphabet"}, "alphabet": {"tokenizer"}}


_PATHS = ("shards", "tokenizer", "text")


def _require_at_least(bound: int, table: str, section: object, *keys: str) -> None:
    for key in keys:
        require(getattr(section, key) >= bound, f"{table}.{key}", f"at least {bound}", getattr(section, key))


def _require_given(given: bool, name: str, hint: str) -> None:
    if not given:
        raise ConfigError(f"{name} must be given, got nothing", hint=hint)


def _require_rung(name: object) -> None:
    known = isinstance(name, str) and name in LADDER
    require(known, "model.rung", f"one of {', '.join(LADDER)}", name, _nearest(str(name), LADDER))


def _nearest(name: str, valid: Mapping[str, object], prefix: str = "") -> str | None:
    matches = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {prefix}{matches[0]}?" if matches else None


def _place_paths(tables: dict[str, Any], folder: Path) -> None:
    data = tables.get("data")
    if isinstance(data, dict):
        for key in _PATHS:
            if isinstance(value := data.get(key), str) and value not in KNOWN:
                data[key] = str((folder / value).resolve())
    run = tables.get("run")
    if isinstance(run, dict) and isinstance(value := run.get("init_from"), str) and (folder / value).is_dir():
        run["init_from"] = str((folder / value).resolve())  # else it is a name


def _apply_override(tables: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    table, dot, key = name.strip().partition(".")
    hint = "for example --set model.width=128"
    require(bool(equals and dot and table and key), "override", "table.key=value", override, hint)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    target = tables.setdefault(table, {})
    require(isinstance(target, dict), table, "a table", target)
    if table == "data":
        # A text takes the place of shards and of their tokenizer, but of no other text's.
        instead = {"shards", "tokenizer"} if key == "text" and "shards" in target else _INSTEAD.get(key, set())
        for other in instead & target.keys():
            del target[other]
        if isinstance(value, str) and key in _PATHS and value not in KNOWN:
            value = str(Path(value).resolve())
    if name.strip() == "run.init_from" and isinstance(value, str) and Path(value).is_dir():
        value = str(Path(value).resolve())
    target[key] = value


def _config_from(tables: dict[str, Any]) -> Config:
    _require_names(tables, _TABLES, prefix="", noun="table")
    for name, table in tables.items():
        require(isinstance(table, dict), name, "a table", table, f"write [{name}]")
    for name in _TABLES:
        _require_given(name in tables, f"[{name}]", f"the tables are {', '.join(_TABLES)}")
    model = dict(tables["model"])
    _require_given("rung" in model, "model.rung", f"the rungs are {', '.join(LADDER)}")
    rung = model.pop("rung")
    _require_rung(rung)
    if "size" in model and rung in _SIZED:
        model = _sized(model)
    data = TextConfig if "text" in tables["data"] else DataConfig
    kinds = {**_TABLES, "data": data, "model": LADDER[rung].config}
    sections = {name: _section_from({**tables, "model": model}[name], name, kind) for name, kind in kinds.items()}
    return Config(rung=rung, **sections)


_SIZED = ("gpt2", "modern")  # the rungs that come in the published sizes


def _sized(model: dict[str, Any]) -> dict[str, Any]:
    """The keys of `[model]` with `size` spelled out; what is written beside it goes first."""
    from lm.models.gpt2 import SIZES  # torch comes with it

    size = model.pop("size")
    require(size in SIZES, "model.size", f"one of {', '.join(SIZES)}", size, _nearest(str(size), SIZES))
    shape = SIZES[size]
    return {"context": shape.context, "layers": shape.layers, "heads": shape.heads, "width": shape.width, **model}


def _section_from(table: dict[str, Any], name: str, kind: Any) -> Any:
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    _require_names(table, fields, prefix=f"{name}.", noun="key")
    for key, field in fields.items():
        given = key in table or field.default is not dataclasses.MISSING
        _require_given(given, f"{name}.{key}", f"add `{key} = ...` under [{name}]")
    return kind(**{key: _typed(value, hints[key], f"{name}.{key}") for key, value in table.items()})


def _require_names(given: Mapping[str, Any], valid: Mapping[str, object], *, prefix: str, noun: str) -> None:
    for name in given:
        hint = _nearest(name, valid, prefix) or f"the {noun}s are {', '.join(valid)}"
        require(name in valid, f"{prefix}{name}", f"a known {noun}", name, hint)


def _typed(value: Any, hint: Any, name: str) -> Any:
    """The value as the field's type wants it; TOML has no paths and no tuples, and 1 is a fine float."""
    if isinstance(hint, types.UnionType):  # only `X | None` occurs; TOML has no None, an absent key is one
        hint = next(arm for arm in get_args(hint) if arm is not type(None))
    if get_origin(hint) is Literal:
        choices = dict.fromkeys(get_args(hint))
        close = _nearest(str(value).lower(), choices)
        require(value in choices, name, f"one of {', '.join(choices)}", value, close)
        return value
    if get_origin(hint) is tuple:
        arms = get_args(hint)
        fits = isinstance(value, list) and len(value) == len(arms)
        require(fits, name, f"a list of {len(arms)}", value)
        return tuple(_typed(item, arm, name) for item, arm in zip(value, arms, strict=True))
    if hint is Path:
        require(isinstance(value, str), name, "a path", value)
        return Path(value)
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    accepted = (int, float) if hint is float else (hint,)
    require(type(value) in accepted, name, words[hint], value)
    return hint(value)


def _to_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_to_toml, value))}]"
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
