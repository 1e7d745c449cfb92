"""Checkpoints: all that a run needs to go on bit for bit, in a folder that is whole or not there.

    checkpoints/step_000500/
      model.safetensors        the weights, by parameter name
      optimizer.safetensors    the optimizer's tensors, by "<parameter name>.<what>"
      state.json               the rest (`State`), the optimizer's groups, the sha256 of each file

No state of a random generator is among them: what a step draws depends on the seed, the step and the micro batch alone
(`lm.train`). It is written under a hidden name, flushed to the disk and renamed, so a crash leaves no half checkpoint
in sight. No pickle: loading one runs nobody's code.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bpetok.errors import IncompatibleError
from bpetok.files import sync_file, sync_folder
from lm import sharded
from lm.errors import DamagedError
from lm.world import ALONE, World, is_cut, together

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class State:
    """What a checkpoint holds beside the tensors.

    Args:
        step: updates made.
        tokens: targets learnt from.
        rung: the model's name in the ladder.
        fingerprint: of the vocabulary, sha256 in hex.
        config: the run's config as TOML.
        batches: the cursor, `Batches.state()`.
        val_loss: nats per token on the validation split after `step` updates; None where it was not evaluated then.
        val_tokens: over how many targets.
    """

    step: int
    tokens: int
    rung: str
    fingerprint: str
    config: str
    batches: Mapping[str, int]
    val_loss: float | None = None
    val_tokens: int | None = None


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: State,
    *,
    keep: int = 0,
    world: World = ALONE,
) -> Path:
    """Writes a checkpoint and takes the oldest away; all processes call it.

    Args:
        folder: the run's `checkpoints`.
        model: the bare module, not a compiled one (its names would carry a prefix).
        optimizer: over the model's parameters.
        state: the rest.
        keep: how many of the latest checkpoints stay, and beside them the best one; 0 for all.
        world: the processes. The files are the same for any number of them, and whether each holds all or a part.

    Returns:
        the new checkpoint's folder.
    """
    target = folder / f"step_{state.step:06d}"
    hidden = folder / f".{target.name}.tmp"
    with together(world):
        if world.is_main:
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir(parents=True)
    names = _parameter_names(model, optimizer)
    sharded.write(hidden / WEIGHTS, model.state_dict(), world)
    sharded.write(hidden / OPTIMIZER, _optimizer_tensors(names, optimizer), world)
    with together(world):
        if world.is_main:
            _make_visible(hidden, target, state, _optimizer_groups(names, optimizer))
            take_away_old(folder, keep)
    return target


def _make_visible(hidden: Path, target: Path, state: State, groups: dict[str, Any]) -> None:
    """Adds the state to the files of a hidden folder, flushes all to the disk, and gives it its name."""
    document = {
        "version": _VERSION,
        **asdict(state),
        "optimizer": groups,
        "sha256": {name: _sha256(hidden / name) for name in (WEIGHTS, OPTIMIZER)},
    }
    document["sha256"][STATE] = _sha256_of_document(document)
    with (hidden / STATE).open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
    for path in hidden.iterdir():
        sync_file(path)
    sync_folder(hidden)
    aside = target.with_name(f".{target.name}.old.tmp")
    if target.exists():
        target.rename(aside)
    hidden.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def take_away_old(folder: Path, keep: int) -> None:
    """Removes all but the `keep` latest checkpoints and the best one, none if `keep` is 0; and what kills left."""
    for left in folder.glob(".step_*.tmp"):
        shutil.rmtree(left)
    old = _all(folder)[:-keep] if keep else []
    for checkpoint in {*old} - {best(folder)}:
        shutil.rmtree(checkpoint)


def latest(folder: Path) -> Path | None:
    """The checkpoint with the most steps, or None where there is none."""
    return max(_all(folder), key=_step_of, default=None)


def best(folder: Path) -> Path | None:
    """The checkpoint with the lowest `val_loss`, the earliest of equals, or None where none has one.

    Only losses over as many targets as the last one are held against each other. It reads the state files alone and
    skips those that are damaged.
    """
    evaluated = {path: figures for path in _all(folder) if (figures := _validation_of(path))}
    if not evaluated:
        return None
    *_, (_, tokens) = evaluated.values()
    return min((path for path in evaluated if evaluated[path][1] == tokens), key=lambda path: evaluated[path][0])


def _validation_of(checkpoint: Path) -> tuple[float, int | None] | None:
    try:
        document = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        loss, tokens = document.get("val_loss"), document.get("val_tokens")
    except (OSError, ValueError, AttributeError):
        return None
    return (loss, tokens) if isinstance(loss, float) else None


def read_state(checkpoint: Path) -> State:
    """What a checkpoint holds beside the tensors, after a look at every byte of it.

    Raises:
        DamagedError: if a file is missing or not as it was written; it is named.
    """
    return Checkpoint(checkpoint).state


def load(
    checkpoint: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    rung: str,
    fingerprint: str,
) -> State:
    """Fills a model, and an optimizer over it, with what a checkpoint holds.

    Args:
        checkpoint: its folder.
        model: on its device; not the compiled one.
        optimizer: None to load the weights only.
        rung: what the model is, a name of the ladder.
        fingerprint: of the vocabulary in use.

    Returns:
        the rest of the checkpoint.

    Raises:
        DamagedError: if a file is missing or not as it was written.
        IncompatibleError: if it is of another rung, vocabulary, size or optimizer.
    """
    saved = Checkpoint(checkpoint)
    saved.fill(model, optimizer, rung=rung, fingerprint=fingerprint)
    return saved.state


@final
class Checkpoint:
    """A checkpoint of whose files every byte was looked at, once.

    Raises:
        DamagedError: if a file is missing or not as it was written.
        IncompatibleError: if another version of lm saved it.
    """

    def __init__(self, path: Path) -> None:
        """Reads the state, and the sums of the other files."""
        self.path = path
        self._document = _verified(path)
        given = {name: self._document[name] for name in State.__dataclass_fields__ if name in self._document}
        self.state = State(**given)

    def fill(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        rung: str,
        fingerprint: str,
    ) -> None:
        """Puts the saved tensors into a model, and an optimizer over it; as `load`, which says more."""
        for name, wanted in (("rung", rung), ("fingerprint", fingerprint)):
            if self._document[name] != wanted:
                message = f"{self.path}: {name} must be {wanted}, got {self._document[name]}"
                raise IncompatibleError(message, hint="take the config and the tokenizer of the run that saved it")
        tensors = model.state_dict()
        _require_same_shapes(self.path, _shapes(self.path / WEIGHTS), tensors)
        parts = any(is_cut(tensor) for tensor in tensors.values())
        if parts:
            sharded.fill(self.path / WEIGHTS, tensors)
        else:
            model.load_state_dict(safetensors.torch.load_file(self.path / WEIGHTS))
        if optimizer is not None:
            names = _parameter_names(model, optimizer)
            _require_same_groups(self.path, self._document["optimizer"], _optimizer_groups(names, optimizer))
            file = self.path / OPTIMIZER
            if parts:
                state = sharded.read_like(file, dict(model.named_parameters()))
            else:
                state = safetensors.torch.load_file(file)
            _fill_optimizer(names, optimizer, state)


def _all(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step_*") if path.name[5:].isdigit()), key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def _parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """The names of the parameters of each of the optimizer's groups, in the optimizer's order."""
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    return [[name_of[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


def _optimizer_tensors(names: list[list[str]], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for group_names, group in zip(names, optimizer.param_groups, strict=True):
        for name, parameter in zip(group_names, group["params"], strict=True):
            for what, value in optimizer.state[parameter].items():
                tensors[f"{name}.{what}"] = value
    return tensors


def _optimizer_groups(names: list[list[str]], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer without its tensors. The rate is not in it: the schedule gives it anew at each step."""
    keys = ("betas", "eps", "weight_decay")
    groups = [
        {"parameters": group_names, **{key: group[key] for key in keys if key in group}}
        for group_names, group in zip(names, optimizer.param_groups, strict=True)
    ]
    # Through JSON, so that what is saved compares equal to what is read.
    plain: dict[str, Any] = json.loads(json.dumps({"class": type(optimizer).__name__, "groups": groups}))
    return plain


def _fill_optimizer(names: list[list[str]], optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, what = key.rpartition(".")  # "<name>.<what>", and `what` has no dot
        by_name.setdefault(name, {})[what] = tensor
    order = (name for group_names in names for name in group_names)
    state = {index: by_name[name] for index, name in enumerate(order) if name in by_name}
    # torch's own loader knows where each tensor has to live (the step of a fused optimizer is on the device).
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _require_same_shapes(checkpoint: Path, saved: Mapping[str, list[int]], model: Mapping[str, Tensor]) -> None:
    wanted = {name: list(tensor.shape) for name, tensor in model.items()}
    for name in sorted(saved.keys() | wanted.keys()):
        if wanted.get(name) != saved.get(name):
            message = f"{checkpoint / WEIGHTS}: {name} must be of shape {wanted.get(name)}, got {saved.get(name)}"
            raise IncompatibleError(message, hint="build the model from the config that lies in the run's folder")


def _require_same_groups(checkpoint: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if saved != now:
        message = f"{checkpoint}: optimizer must be {now['class']} with the groups of this run, got another one"
        raise IncompatibleError(message, hint="resume with the [optimizer] settings that the run began with")


def _shapes(path: Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise DamagedError(f"{path}: must be a safetensors file, got {error}") from error


def _verified(checkpoint: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        sums: dict[str, str] = document["sha256"]
        right = {STATE: sums.pop(STATE) == _sha256_of_document(document)}
    except FileNotFoundError:
        raise DamagedError(f"{checkpoint / STATE}: must be there, got no file", hint=_DAMAGED) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        right, sums, document = {STATE: False}, {}, {}
    for name, wanted in sums.items():
        try:
            right[name] = _sha256(checkpoint / name) == wanted
        except FileNotFoundError:
            raise DamagedError(f"{checkpoint / name}: must be there, got no file", hint=_DAMAGED) from None
    for name, fine in right.items():
        if not fine:
            raise DamagedError(f"{checkpoint / name}: must be as it was written, got other bytes", hint=_DAMAGED)
    if document["version"] != _VERSION:
        message = f"{checkpoint}: version must be {_VERSION}, got {document['version']}"
        raise IncompatibleError(message, hint="it was saved by another version of lm")
    return document


_DAMAGED = "the checkpoint is damaged; delete its folder to go on from the one before it"


def _sha256_of_document(document: Mapping[str, Any]) -> str:
    """The sum of `state.json` over everything in it but the sum itself."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
