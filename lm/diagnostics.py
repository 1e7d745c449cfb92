"""Diagnostics: what one training step looks like inside, on any rung.

    with watch(model) as watching:
        loss = cross_entropy(model(inputs_BT), targets_BT)
        loss.backward()
        optimizer.step()
        diagnosis = watching.diagnose()

Hooks see the activations and their gradients as they pass; nothing in the model changes, no number of the training
changes, and a step that is not watched costs nothing.

Source: Karpathy, *Neural Networks: Zero to Hero*, makemore part 3: its four plots, and what they are read for. The
activations should neither shrink nor saturate from layer to layer, their gradients neither vanish nor explode, and
the updates should be about a thousandth of the weights (`update_to_data` near 1e-3).

Which activations are seen: `nn.Tanh`, `nn.Sigmoid`, `nn.ReLU` and `nn.GELU`, where they are modules.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bpetok.errors import DataError

BINS = 50

SATURATED: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda inputs, outputs: outputs.abs() > 0.97,
    nn.Sigmoid: lambda inputs, outputs: (outputs - 0.5).abs() > 0.485,
    nn.ReLU: lambda inputs, outputs: outputs == 0,
    nn.GELU: lambda inputs, outputs: inputs < -2.25,
}
"""Where an activation passes back next to nothing. Tanh's bound is the lecture's: there the slope is 1 - .97 * .97 =
.059. The others are where their slope is as small, against the steepest for the sigmoid, which is half a tanh; ReLU's
is 0 there. GELU's slope is also small around its minimum, which is no saturation and is not counted."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many values lie in each of some equally wide bins; the last bin holds its upper edge too.

    Args:
        low: the lowest edge.
        high: the highest edge.
        counts: the values in each bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> tuple[float, ...]:
        """The edges of the bins, one more than there are bins.

        >>> Histogram(low=0.0, high=1.0, counts=(3, 5)).edges
        (0.0, 0.5, 1.0)
        """
        return tuple(_edge(self.low, self.high, i, len(self.counts)) for i in range(len(self.counts) + 1))

    @property
    def densities(self) -> tuple[float, ...]:
        """The height of each bin, such that the areas of all of them sum to 1."""
        area = sum(self.counts) * (self.high - self.low) / len(self.counts)
        return tuple(count / area for count in self.counts)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the values of a tensor are spread. Those that are nan or infinite are counted and left out of the rest.

    Args:
        mean: of the finite values; None where there are none.
        std: their standard deviation (divided by n - 1, as torch does); None for fewer than two.
        nonfinite: how many values are nan or infinite.
        histogram: of the finite values, from the least to the greatest; None where there are none.
    """

    mean: float | None
    std: float | None
    nonfinite: int
    histogram: Histogram | None

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """The spread of a tensor of any shape.

        >>> spread = Spread.of(torch.tensor([1.0, 3.0, float("nan")]))
        >>> spread.mean, round(spread.std, 4), spread.nonfinite
        (2.0, 1.4142, 1)
        """
        values_N = _floats(values)
        finite_N = values_N[values_N.isfinite()]
        return cls(
            mean=_finite(finite_N.mean().item()) if len(finite_N) else None,
            std=_std(finite_N),
            nonfinite=len(values_N) - len(finite_N),
            histogram=_histogram(finite_N) if len(finite_N) else None,
        )


@dataclass(frozen=True, kw_only=True)
class ActivationRow:
    """One activation in a forward pass; a module that was called several times is one row.

    Args:
        name: of the module, as `named_modules` has it.
        kind: its class, such as "Tanh".
        values: the spread of its outputs.
        saturated: the share of its outputs that are saturated; see `SATURATED`.
        dead: the share of its units that are saturated on every example of the pass. A unit is an index of the last
            dimension, an example one of all the others.
        gradient: the spread of the loss's gradient by the outputs; None where there was no backward pass.
    """

    name: str
    kind: str
    values: Spread
    saturated: float
    dead: float
    gradient: Spread | None


@dataclass(frozen=True, kw_only=True)
class ParameterRow:
    """One parameter tensor, its gradient and its update.

    Args:
        name: as `named_parameters` has it.
        shape: of the tensor.
        data_std: the standard deviation of its values after the update; None where it is nan or of a single value.
        gradient: the spread of its gradient as the optimizer met it, so after clipping; None where it has none.
        update_std: the standard deviation of what the update added to it, whatever the optimizer; None as above.
    """

    name: str
    shape: tuple[int, ...]
    data_std: float | None
    gradient: Spread | None
    update_std: float | None

    @property
    def grad_to_data(self) -> float | None:
        """The gradient's standard deviation, divided by that of the values; None where that cannot be."""
        return _ratio(self.gradient.std if self.gradient else None, self.data_std)

    @property
    def update_to_data(self) -> float | None:
        """The update's standard deviation, divided by that of the values; about 1e-3 in a healthy run."""
        return _ratio(self.update_std, self.data_std)

    @property
    def log10_update_to_data(self) -> float | None:
        """log10 of `update_to_data`, as the lecture plots it; None where there was no update."""
        return math.log10(self.update_to_data) if self.update_to_data else None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `watch` saw of a step: the activations in the order in which they were called, and every parameter."""

    activations: tuple[ActivationRow, ...]
    parameters: tuple[ParameterRow, ...]

    def to_json(self) -> dict[str, Any]:
        """A dict of what JSON has; no nan or infinity is in it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """The diagnosis that `to_json` wrote, from that dict or from a line of the log that holds its keys.

        Raises:
            DataError: if it is not what `to_json` writes.
        """
        try:
            return cls(
                activations=tuple(_activation_row(row) for row in line["activations"]),
                parameters=tuple(_parameter_row(row) for row in line["parameters"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"diagnosis: it must be as to_json writes it, got {error!r}") from error


@contextmanager
def watch(model: nn.Module) -> "Iterator[Watch]":
    """A `Watch` over what happens to a model in the `with` block: its activations, its gradients, its update.

    With several micro batches it sees the activations of the last one and the gradients of all: the first call of an
    activation after a backward pass drops the calls before it. It keeps a copy of the parameters and the activations
    for as long as it lives itself.

    A model that was compiled before is seen in its parameters only: compiled code does not call hooks.
    """
    watching = Watch(model)
    try:
        yield watching
    finally:
        watching.close()


@final
class Watch:
    """What is seen of a model between `watch` and the end of its block."""

    def __init__(self, model: nn.Module) -> None:
        """Begins: keeps a copy of the parameters and sets the hooks."""
        self._model = model
        self._before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self._calls: dict[str, list[_Call]] = {}
        self._was_backward = False
        self._hooks: list[RemovableHandle] = []
        for name, module in model.named_modules():
            for kind, is_saturated in SATURATED.items():
                if isinstance(module, kind):
                    self._hooks.append(module.register_forward_hook(self._recorder(name, is_saturated)))

    def close(self) -> None:
        """Takes the hooks off the model; what was seen can still be diagnosed."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def diagnose(self) -> Diagnosis:
        """The figures of the step; to be called after the update and before the gradients are cleared.

        Before the update is fine too, then the updates are 0.
        """
        kinds = {name: type(module).__name__ for name, module in self._model.named_modules()}
        return Diagnosis(
            activations=tuple(_of_activation(name, kinds[name], calls) for name, calls in self._calls.items()),
            parameters=tuple(
                _of_parameter(name, parameter, self._before[name]) for name, parameter in self._model.named_parameters()
            ),
        )

    def _recorder(self, name: str, is_saturated: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., None]:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            if self._was_backward:  # so this is the next micro batch
                self._calls.clear()
                self._was_backward = False
            call = _Call(outputs=outputs.detach(), saturated=is_saturated(inputs[0].detach(), outputs.detach()))
            self._calls.setdefault(name, []).append(call)
            if outputs.requires_grad:
                outputs.register_hook(lambda gradient: self._keep(call, gradient))  # type: ignore[no-untyped-call]

        return record

    def _keep(self, call: "_Call", gradient: Tensor) -> None:
        call.gradient = gradient.detach()
        self._was_backward = True


@dataclass(kw_only=True)
class _Call:
    """One call of an activation."""

    outputs: Tensor
    saturated: Tensor
    gradient: Tensor | None = None


def _of_activation(name: str, kind: str, calls: list[_Call]) -> ActivationRow:
    gradients = [call.gradient for call in calls if call.gradient is not None]
    saturated_NU = torch.cat([call.saturated.reshape(-1, *call.saturated.shape[-1:]) for call in calls])
    return ActivationRow(
        name=name,
        kind=kind,
        values=Spread.of(torch.cat([call.outputs.flatten() for call in calls])),
        saturated=saturated_NU.float().mean().item(),
        dead=saturated_NU.all(dim=0).float().mean().item(),
        gradient=Spread.of(torch.cat([gradient.flatten() for gradient in gradients])) if gradients else None,
    )


def _of_parameter(name: str, parameter: nn.Parameter, before: Tensor) -> ParameterRow:
    data = parameter.detach()
    return ParameterRow(
        name=name,
        shape=tuple(data.shape),
        data_std=_std(_floats(data)),
        gradient=None if parameter.grad is None else Spread.of(parameter.grad),
        update_std=_std(_floats(data - before)),
    )


def _floats(values: Tensor) -> Tensor:
    """All values in one row, in float32 at least: the squares of float16 overflow soon, those of bfloat16 are rough."""
    return values.detach().flatten().to(torch.promote_types(values.dtype, torch.float32))


def _std(values_N: Tensor) -> float | None:
    return _finite(values_N.std().item()) if len(values_N) >= 2 else None


def _finite(value: float) -> float | None:
    """The value; None for nan and infinity, for which JSON has no word."""
    return value if math.isfinite(value) else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return _finite(above / below) if above is not None and below else None


def _histogram(finite_N: Tensor) -> Histogram:
    low, high = finite_N.min().item(), finite_N.max().item()
    if low == high:  # a bin needs a width
        margin = max(0.5, abs(low) / 2)
        low, high = low - margin, high + margin
    inner = torch.tensor([_edge(low, high, i, BINS) for i in range(1, BINS)], dtype=finite_N.dtype)
    # Not torch.histc, which counts in the dtype of the values: float32 cannot count past 16,777,216.
    bins_N = torch.bucketize(finite_N, inner.to(finite_N.device), right=True)
    return Histogram(low=low, high=high, counts=tuple(torch.bincount(bins_N, minlength=BINS).tolist()))


def _edge(low: float, high: float, i: int, bins: int) -> float:
    return low * (1 - i / bins) + high * (i / bins)  # high - low might overflow


def _activation_row(row: Mapping[str, Any]) -> ActivationRow:
    return ActivationRow(**{**row, "values": _spread(row["values"]), "gradient": _spread(row["gradient"])})


def _parameter_row(row: Mapping[str, Any]) -> ParameterRow:
    return ParameterRow(**{**row, "shape": tuple(row["shape"]), "gradient": _spread(row["gradient"])})


def _spread(spread: Mapping[str, Any] | None) -> Any:
    if spread is None:
        return None
    histogram = spread["histogram"]
    if histogram is not None:
        histogram = Histogram(**{**histogram, "counts": tuple(histogram["counts"])})
    return Spread(**{**spread, "histogram": histogram})
