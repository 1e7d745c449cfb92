"""The scalar engine: numbers that remember how they were made, so that their derivatives can be found; and the
smallest networks on top of them.

Source: Karpathy, *Neural Networks: Zero to Hero*, "The spelled-out intro to neural networks and backpropagation:
building micrograd"; karpathy/micrograd. The method is reverse-mode differentiation (Linnainmaa 1970; Rumelhart,
Hinton, Williams, *Learning representations by back-propagating errors*, 1986).
Adds: the ladder begins here; the chain rule, an update against the gradient.
Lacks: tensors. Each addition is a Python object; a network takes more than a hundred times as long as in torch.
Parameters: of an MLP, the sum over its layers of (inputs + 1) * outputs.

A `Value` knows the one or two values that it was computed from and its derivative by each of them, as plain numbers.
There is no function kept for later and no pointer from a value to what is made of it, so a graph has no reference
cycle: it is gone with its last value, and the garbage collector has nothing to find. micrograd keeps a closure for
each value; the time that Python's collector takes to walk those is most of the time that it needs.

The expression of the lecture, backwards, and one step along the gradient:

>>> a, b, c, f = Value(2.0), Value(-3.0), Value(10.0), Value(-2.0)
>>> L = (a * b + c) * f
>>> L.data
-8.0
>>> L.backward()
>>> [leaf.grad for leaf in (a, b, c, f)]
[6.0, -4.0, -2.0, 4.0]
>>> for leaf in (a, b, c, f):
...     leaf.data += 0.01 * leaf.grad
>>> round(((a * b + c) * f).data, 6)
-7.286496

Its neuron:

>>> x1, x2, w1, w2, b = Value(2.0), Value(0.0), Value(-3.0), Value(1.0), Value(6.8813735870195432)
>>> o = (x1 * w1 + x2 * w2 + b).tanh()
>>> round(o.data, 4)
0.7071
>>> o.backward()
>>> [round(leaf.grad, 4) for leaf in (x1, w1, x2, w2)]
[-1.5, 1.0, 0.5, 0.0]
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Literal, final

from bpetok.errors import DataError
from lm.errors import NonFiniteError, require

Activation = Literal["linear", "tanh", "relu", "sigmoid"]


@final
class Value:
    """A number, and after `backward` the derivative of some result by it.

    Gradients add up: a value that is used twice has the sum of both uses.

    >>> a = Value(3.0)
    >>> b = a + a
    >>> b.backward()
    >>> a.grad
    2.0
    >>> a, b = Value(-2.0), Value(3.0)
    >>> f = (a * b) * (a + b)
    >>> f.backward()
    >>> f.data, a.grad, b.grad
    (-6.0, -3.0, -8.0)
    >>> a.data += -0.1 * a.grad  # against the gradient, so f falls
    >>> round(((a * b) * (a + b)).data, 6)
    -6.63

    Attributes:
        data: the number.
        grad: the derivative of the last result whose `backward` was called by this value. For a leaf (a value that
            was not computed) it is the sum over all calls since it was last set to 0.
        label: a name for drawings.
        op: how it was computed; "" for a leaf.
    """

    __slots__ = ("_left", "_left_slope", "_right", "_right_slope", "data", "grad", "label", "op")

    data: float
    grad: float
    label: str
    op: str
    _left: Value | None
    _right: Value | None
    _left_slope: float
    _right_slope: float

    __array_ufunc__ = None  # a numpy number on the left leaves the operation to us

    def __init__(self, data: float, label: str = "") -> None:
        """A leaf.

        Raises:
            DataError: if `data` is no finite number.
        """
        if not isinstance(data, float | int | Real) or not math.isfinite(data):
            raise DataError(f"Value: data must be a finite number, got {data!r}")
        self.data = float(data)
        self.grad = 0.0
        self.label = label
        self.op = ""
        self._left = self._right = None
        self._left_slope = self._right_slope = 0.0

    @property
    def parents(self) -> tuple[Value, ...]:
        """The values that it was computed from: none, one or two."""
        return tuple(value for value in (self._left, self._right) if value is not None)

    def __repr__(self) -> str:
        """As the lectures print it."""
        return f"Value(data={self.data}, grad={self.grad})"

    def __add__(self, other: Value | float) -> Value:
        """The sum."""
        if not isinstance(other, Value):
            other = Value(other)
        return _result(self.data + other.data, "+", self, 1.0, other, 1.0)

    def __sub__(self, other: Value | float) -> Value:
        """The difference."""
        if not isinstance(other, Value):
            other = Value(other)
        return _result(self.data - other.data, "-", self, 1.0, other, -1.0)

    def __mul__(self, other: Value | float) -> Value:
        """The product."""
        if not isinstance(other, Value):
            other = Value(other)
        left, right = self.data, other.data
        return _result(left * right, "*", self, right, other, left)

    def __truediv__(self, other: Value | float) -> Value:
        """The quotient; ZeroDivisionError where `other` is 0."""
        if not isinstance(other, Value):
            other = Value(other)
        ratio = self.data / other.data
        return _result(ratio, "/", self, 1.0 / other.data, other, -ratio / other.data)

    def __pow__(self, other: Value | float) -> Value:
        """The power: of any value with a number as exponent, of a positive one with a Value.

        Raises:
            NonFiniteError: if the power or its derivative is no finite real number.
        """
        if isinstance(other, Value):
            if self.data <= 0:
                raise NonFiniteError(f"Value ** Value: the base must be positive, got {self.data}")
            power, slope = _power(self.data, other.data)
            return _result(power, "**", self, slope, other, power * math.log(self.data))
        power, slope = _power(self.data, Value(other).data)
        return _result(power, f"**{other}", self, slope)

    def __neg__(self) -> Value:
        """The negative."""
        return _result(-self.data, "neg", self, -1.0)

    def __radd__(self, other: float) -> Value:
        """`other + self`, which lets `sum` begin at 0."""
        return Value(other) + self

    def __rsub__(self, other: float) -> Value:
        """`other - self`."""
        return Value(other) - self

    def __rmul__(self, other: float) -> Value:
        """`other * self`."""
        return Value(other) * self

    def __rtruediv__(self, other: float) -> Value:
        """`other / self`."""
        return Value(other) / self

    def __rpow__(self, other: float) -> Value:
        """`other ** self`."""
        return Value(other) ** self

    def exp(self) -> Value:
        """e to the power of it; NonFiniteError where that is too large for a float."""
        try:
            power = math.exp(self.data)
        except OverflowError as error:
            raise NonFiniteError(f"Value.exp: the argument must be below 709.79, got {self.data}") from error
        return _result(power, "exp", self, power)

    def log(self) -> Value:
        """The natural logarithm; NonFiniteError where it has none."""
        if self.data <= 0:
            raise NonFiniteError(f"Value.log: the argument must be positive, got {self.data}")
        return _result(math.log(self.data), "log", self, 1.0 / self.data)

    def tanh(self) -> Value:
        """The hyperbolic tangent, in (-1, 1)."""
        t = math.tanh(self.data)
        return _result(t, "tanh", self, 1.0 - t * t)

    def sigmoid(self) -> Value:
        """1 / (1 + e**-x), in (0, 1)."""
        small = math.exp(-abs(self.data))  # never above 1, so it cannot overflow
        s = (1.0 if self.data >= 0 else small) / (1.0 + small)
        return _result(s, "sigmoid", self, s * (1.0 - s))

    def relu(self) -> Value:
        """The value where it is positive, else 0; the slope at 0 is 0."""
        if self.data > 0:
            return _result(self.data, "relu", self, 1.0)
        return _result(0.0, "relu", self, 0.0)

    def backward(self) -> None:
        """Finds the derivative of this value by every value that it was computed from.

        The leaves' gradients are added to what they hold, as in torch, so set them to 0 before the next step. Those
        of computed values are set anew each time: a second call adds the same once more to the leaves, no more. The
        slopes are those of the forward pass, also where a leaf's data has changed since.

        Raises:
            NonFiniteError: if a leaf's gradient is nan or infinite; do not use any of them then.

        >>> w = Value(1.0)
        >>> ((w * 3 - 7) ** 2).backward()
        >>> w.grad
        -24.0
        >>> w, b = Value(3.75), Value(3.50)  # at x = 2 the line w*x + b gives 11; 10 is asked for
        >>> ((w * 2 + b - 10) ** 2).backward()
        >>> round(w.data - 0.01 * w.grad, 6), round(b.data - 0.01 * b.grad, 6)
        (3.71, 3.48)
        """
        nodes = graph(self)
        for node in nodes:
            if node._left is not None:
                node.grad = 0.0
        self.grad += 1.0
        for node in reversed(nodes):
            grad, left, right = node.grad, node._left, node._right
            if left is not None:
                left.grad += node._left_slope * grad
                if right is not None:
                    right.grad += node._right_slope * grad
            elif grad - grad != 0.0:  # of nan and inf, and of nothing else
                raise NonFiniteError(f"backward: the gradient of {node.label or 'a leaf'} must be finite, got {grad}")


def _result(
    data: float, op: str, left: Value, left_slope: float, right: Value | None = None, right_slope: float = 0.0
) -> Value:
    """A computed value. Every operation ends here, so it passes by `__init__` and its checks of a user's data."""
    if data - data != 0.0:  # the quickest test for nan and inf
        operands = f"{left.data}" if right is None else f"{left.data} and {right.data}"
        raise NonFiniteError(f"Value: the result of {op} must be finite, got {data} of {operands}")
    value = object.__new__(Value)
    value.data = data
    value.grad = 0.0
    value.label = ""
    value.op = op
    value._left = left
    value._left_slope = left_slope
    value._right = right
    value._right_slope = right_slope
    return value


def _power(base: float, exponent: float) -> tuple[float, float]:
    """The power and its derivative by the base."""
    try:
        power = base**exponent
        slope = exponent * base ** (exponent - 1.0) if exponent else 0.0
    except ArithmeticError as error:
        raise NonFiniteError(f"Value **: {base} ** {exponent} must be finite, and its slope too") from error
    if isinstance(power, complex):
        raise NonFiniteError(f"Value **: {base} ** {exponent} must be real", hint="a negative base has no such root")
    return power, slope


def graph(root: Value) -> list[Value]:
    """All values that `root` was computed from and itself, each after its parents.

    A depth-first search with a stack of its own, since Python's is too short for a chain of a thousand additions.
    """
    nodes: list[Value] = []
    seen: set[Value] = set()
    stack: list[Value | None] = [root]
    while stack:
        node = stack.pop()
        if node is None:  # the mark under which a value waited for its parents
            done = stack.pop()
            assert done is not None
            nodes.append(done)
        elif node not in seen:
            seen.add(node)
            left, right = node._left, node._right
            if left is None:
                nodes.append(node)
                continue
            stack += (node, None)
            if left not in seen:
                stack.append(left)
            if right is not None and right not in seen:
                stack.append(right)
    return nodes


# ---- derivatives by differences --------------------------------------------------------------------------------------


def slope(f: Callable[[float], float], x: float, step: float = 1e-6) -> float:
    """The derivative of f at x by a central difference, (f(x + h) - f(x - h)) / 2h with h = `step` * max(1, |x|).

    >>> f = lambda x: 3 * x**2 - 4 * x + 5
    >>> round(slope(f, 3.0), 6), round(abs(slope(f, 2 / 3)), 6)  # rising at 3, at rest at its minimum 2/3
    (14.0, 0.0)
    """
    h = step * max(1.0, abs(x))
    return (f(x + h) - f(x - h)) / (2 * h)


def gradient_check(f: Callable[..., Value], inputs: Sequence[float], step: float = 1e-6) -> float:
    """The largest difference between the gradients that `backward` finds and those found by differences.

    Args:
        f: takes as many Values as there are inputs.
        inputs: where to compare; away from kinks, such as relu's at 0.
        step: as in `slope`.

    Returns:
        the largest |g - d| / max(1, |g|, |d|) over the inputs: about 1e-9 for right derivatives of tame functions.

    >>> gradient_check(lambda a, b: (a * b).tanh() / b, [0.5, -2.0]) < 1e-8
    True
    """
    values = [Value(x) for x in inputs]
    f(*values).backward()

    def along(i: int) -> Callable[[float], float]:
        return lambda x: f(*(Value(x if j == i else other) for j, other in enumerate(inputs))).data

    worst = 0.0
    for i, value in enumerate(values):
        difference = slope(along(i), value.data, step)
        worst = max(worst, abs(value.grad - difference) / max(1.0, abs(value.grad), abs(difference)))
    return worst


# ---- networks --------------------------------------------------------------------------------------------------------


def weighted_sum(weights: Iterable[Value], inputs: Iterable[Value], start: Value) -> Value:
    """start + w1*x1 + w2*x2 + …, added from the left."""
    total = start
    for w, x in zip(weights, inputs, strict=True):
        total = total + w * x
    return total


class Module:
    """Something with parameters."""

    def parameters(self) -> list[Value]:
        """The values that training changes."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Sets the parameters' gradients to 0."""
        for parameter in self.parameters():
            parameter.grad = 0.0


@final
class Neuron(Module):
    """activation(w1*x1 + … + b), the weights drawn from [-1, 1), the bias 0.

    A neuron far from its bend: tanh of -4.50 is flat, so next to no gradient comes through.

    >>> neuron = Neuron(2, "tanh")
    >>> for w, data in zip(neuron.w, [-3.0, 1.0]):
    ...     w.data = data
    >>> neuron.b.data = 0.5
    >>> out = neuron([Value(2.0), Value(1.0)])
    >>> out.parents[0].data, round(out.data, 4)
    (-4.5, -0.9998)
    """

    def __init__(
        self, nin: int, activation: Activation = "relu", uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        """A neuron of `nin` inputs; `uniform(-1, 1)` draws each weight.

        Raises:
            ConfigError: if there is no input, or the activation is unknown.
        """
        require(nin >= 1, "Neuron: nin", "at least 1", nin)
        require(activation in ACTIVATIONS, "Neuron: activation", f"one of {', '.join(ACTIVATIONS)}", activation)
        self.w = [Value(uniform(-1, 1)) for _ in range(nin)]
        self.b = Value(0.0)
        self.activation = activation

    def __call__(self, x: Sequence[Value]) -> Value:
        """Its output.

        Raises:
            DataError: if there are not as many inputs as weights.
        """
        if len(x) != len(self.w):
            raise DataError(f"Neuron: the inputs must be {len(self.w)}, got {len(x)}")
        return ACTIVATIONS[self.activation](weighted_sum(self.w, x, self.b))

    def parameters(self) -> list[Value]:
        """The weights, then the bias."""
        return [*self.w, self.b]


ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "linear": lambda value: value,
    "tanh": Value.tanh,
    "relu": Value.relu,
    "sigmoid": Value.sigmoid,
}
"""What a neuron can do with its sum, by name."""


@final
class Layer(Module):
    """Neurons side by side, all with the same inputs."""

    def __init__(
        self,
        nin: int,
        nout: int,
        activation: Activation = "relu",
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`nout` neurons of `nin` inputs; raises ConfigError if there are none."""
        require(nout >= 1, "Layer: nout", "at least 1", nout)
        self.neurons = [Neuron(nin, activation, uniform) for _ in range(nout)]

    def __call__(self, x: Sequence[Value]) -> list[Value]:
        """The output of each neuron."""
        return [neuron(x) for neuron in self.neurons]

    def parameters(self) -> list[Value]:
        """Those of each neuron in turn."""
        return [parameter for neuron in self.neurons for parameter in neuron.parameters()]


@final
class MLP(Module):
    """Layers one behind the other, the last one linear unless told otherwise.

    Its weights are drawn layer by layer, neuron by neuron, as micrograd draws them, so the same seed gives the same
    network.

    >>> len(list(MLP(3, [4, 2]).parameters()))  # (3 + 1) * 4 + (4 + 1) * 2
    26
    >>> network = MLP(2, [2, 1], hidden="sigmoid", output="sigmoid")
    >>> for p, data in zip(network.parameters(), [0.2, 0.8, 0, 0.4, 0.6, 0, -0.3, 0.7, 0]):
    ...     p.data = data
    >>> round(network([0.8, 0.7])[0].data, 4)
    0.5676
    """

    def __init__(
        self,
        nin: int,
        nouts: Sequence[int],
        hidden: Activation = "relu",
        output: Activation = "linear",
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`nin` inputs, then a layer of each size in `nouts`; raises ConfigError if there are none."""
        require(len(nouts) >= 1, "MLP: nouts", "one layer or more", list(nouts))
        sizes = [nin, *nouts]
        activations = [hidden] * (len(nouts) - 1) + [output]
        self.layers = [Layer(sizes[i], sizes[i + 1], activation, uniform) for i, activation in enumerate(activations)]

    def __call__(self, x: Sequence[Value | float]) -> list[Value]:
        """The outputs of the last layer: always a list, also of one."""
        out = [value if isinstance(value, Value) else Value(value) for value in x]
        for layer in self.layers:
            out = layer(out)
        return out

    def parameters(self) -> list[Value]:
        """Those of each layer in turn."""
        return [parameter for layer in self.layers for parameter in layer.parameters()]
