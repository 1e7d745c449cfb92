"""A run's step on made-up ids: what is measured before a run, in memory or in time."""

import math
from collections.abc import Iterator
from typing import cast, final

import torch
from torch import Tensor, nn

from lm.config import Config
from lm.loss import Objective
from lm.models import LADDER
from lm.models.contract import CausalTransformer
from lm.optim import build
from lm.parallel import autocast


@final
class Rehearsal:
    """Model, loss and optimizer of a run, which can make its steps on batches of any ids.

    The weights are drawn from torch's global generator; those of `run.init_from` take the same memory and time.

    Args:
        config: the run.
        vocab_size: V.
        device: where it computes.
        dtype: of the matrix products.
        batches: of `(inputs_BT, targets_BT)`; random ids of the run's shape when left out.
        compiled: whether `run.compile` counts.

    Attributes:
        objective: the model with its loss.
        optimizer: over its parameters.
    """

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        batches: Iterator[tuple[Tensor, Tensor]] | None = None,
        compiled: bool = True,
    ) -> None:
        """Builds the parts; makes no step."""
        model = LADDER[config.rung].build(config.model, vocab_size)
        if isinstance(model, CausalTransformer):
            model.recompute = config.run.recompute
        _move(model, device)
        self.objective = Objective(model)
        self.optimizer = build(model, config.optimizer)
        compiles = config.run.compile and compiled
        self._forward = cast("nn.Module", torch.compile(self.objective, dynamic=False)) if compiles else self.objective
        self._config, self._device, self._dtype = config, device, dtype
        self._batches = batches or _random(config, vocab_size)

    def step(self, micro_batches: int) -> None:
        """One update of the weights from so many micro batches; waits for no device."""
        self.accumulate(micro_batches)
        self.update()

    def accumulate(self, micro_batches: int) -> None:
        """The gradient of a step: forward and backward, so many times."""
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(micro_batches):
            losses_BT = self._losses(self._forward)
            (losses_BT.sum() / losses_BT.numel()).backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """The rest of a step: clipping and the optimizer."""
        limit = self._config.optimizer.grad_clip or math.inf
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), limit)
        self.optimizer.step()

    def evaluate(self) -> None:
        """One batch of an evaluation."""
        self.objective.eval()
        with torch.no_grad():
            self._losses(self.objective)
        self.objective.train()

    def synchronize(self) -> None:
        """Waits until the device has done all that was asked of it."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()

    def _losses(self, forward: nn.Module) -> Tensor:
        inputs_BT, targets_BT = next(self._batches)
        batch = [inputs_BT.to(self._device), targets_BT.to(self._device)]
        if self._config.batch.documents == "apart":
            batch.append(torch.zeros_like(batch[0]))
        with autocast(self._device, self._dtype):
            losses_BT: Tensor = forward(*batch)
        return losses_BT


def _random(config: Config, vocab_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        ids_BT = torch.randint(vocab_size, (config.batch.rows, config.model.context))
        yield ids_BT, ids_BT


def same_shape(inputs_BT: Tensor, targets_BT: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of another number of rows whose ids are all 0: for steps of which only the shape counts."""
    while True:
        yield (
            torch.zeros(rows, inputs_BT.shape[1], dtype=torch.int64),
            torch.zeros(rows, targets_BT.shape[1], dtype=torch.int64),
        )


def _move(model: nn.Module, device: torch.device) -> None:
    """As `model.to(device)`, which swaps tensors, and fails where these have no bytes (FakeTensorMode)."""
    moved: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in moved:
                moved[id(parameter)] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
            setattr(module, name, moved[id(parameter)])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
