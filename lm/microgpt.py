"""A GPT on the scalar engine: names, one character after the other, in plain Python.

Source: the idea and the shapes of Karpathy's *microgpt* (2026); Vaswani et al., *Attention Is All You Need* (2017),
section 3; Radford et al. (2019) for the order of things; Zhang, Sennrich, *Root Mean Square Layer Normalization*
(2019); Kingma, Ba, *Adam* (2015), algorithm 1.
Adds: to the engine's networks attention, embeddings, a softmax and Adam: all that a language model is made of.
Lacks: tensors; a batch (a step is one name); biases, a gain in the norms, a tied head; see `lm.models.gpt2`.
Parameters: 2*V*C + T*C + L*12*C*C, which is 4,192 for V = 27, C = T = 16, L = 1.

A vector is a list of Values and a matrix a list of rows, one row for each output.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bpetok.errors import DataError
from lm.autograd import Module, Value, weighted_sum
from lm.errors import require

Vector = list[Value]
Matrix = list[Vector]

END = "."  # stands before each name and behind it, as in makemore
INIT_STD = 0.08


@dataclass(frozen=True, kw_only=True)
class MicroGPTConfig:
    """The sizes.

    Args:
        context: T, the most characters that are looked at, the sign before the name among them.
        width: C, a multiple of heads.
        heads: H.
        layers: L.
    """

    context: int = 16
    width: int = 16
    heads: int = 4
    layers: int = 1

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "width", "heads", "layers"):
            require(getattr(self, key) >= 1, f"MicroGPTConfig: {key}", "at least 1", getattr(self, key))
        divides = self.width % self.heads == 0
        require(divides, "MicroGPTConfig: width", f"a multiple of heads = {self.heads}", self.width)


class Block(Module):
    """The matrices of one layer."""

    def __init__(self, width: int, draw: random.Random) -> None:
        """Weights from N(0, .08)."""
        self.query_CC, self.key_CC, self.value_CC, self.project_CC = (matrix(width, width, draw) for _ in range(4))
        self.expand_4CC = matrix(4 * width, width, draw)
        self.shrink_C4C = matrix(width, 4 * width, draw)

    def parameters(self) -> list[Value]:
        """Those of attention, then those of the feedforward."""
        weights = (self.query_CC, self.key_CC, self.value_CC, self.project_CC, self.expand_4CC, self.shrink_C4C)
        return [value for weight in weights for row in weight for value in row]


class MicroGPT(Module):
    """The model and its alphabet.

    >>> model = MicroGPT(["emma", "olivia", "ava"])
    >>> "".join(model.alphabet), len(model.parameters())
    ('.aeilmov', 3584)
    """

    def __init__(self, names: Sequence[str], config: MicroGPTConfig | None = None, seed: int = 1337) -> None:
        """Untrained weights from N(0, .08), for the characters of these names.

        Raises:
            DataError: if there are no names, one is empty or has the end sign in it.
        """
        if not names or not all(names) or any(END in name for name in names):
            raise DataError(f"MicroGPT: names must be one or more, none empty, none with {END!r}, got {len(names)}")
        self.config = config = config or MicroGPTConfig()
        self.alphabet = [END, *sorted(set("".join(names)))]
        draw = random.Random(seed)
        self.token_VC = matrix(len(self.alphabet), config.width, draw)
        self.position_TC = matrix(config.context, config.width, draw)
        self.blocks = [Block(config.width, draw) for _ in range(config.layers)]
        self.head_VC = matrix(len(self.alphabet), config.width, draw)

    def parameters(self) -> list[Value]:
        """The embeddings, the blocks, the head."""
        first = [value for row in (*self.token_VC, *self.position_TC) for value in row]
        blocks = [value for block in self.blocks for value in block.parameters()]
        return [*first, *blocks, *(value for row in self.head_VC for value in row)]

    def ids_of(self, name: str) -> list[int]:
        """The name's ids between two end signs.

        Raises:
            DataError: if a character is not in the alphabet, or the name is too long for the context.
        """
        unknown = sorted(set(name) - set(self.alphabet[1:]))
        if unknown:
            raise DataError(f"MicroGPT: characters must be of {''.join(self.alphabet[1:])!r}, got {unknown[0]!r}")
        if len(name) >= self.config.context:
            raise DataError(f"MicroGPT: a name must have under {self.config.context} characters, got {len(name)}")
        return [0, *(self.alphabet.index(char) for char in name), 0]

    def __call__(self, ids: Sequence[int]) -> Matrix:
        """The logits of the next id at each position, by the ids up to there.

        Raises:
            DataError: if there is no id, one is none of the alphabet's, or they are more than the context.
        """
        fits = 1 <= len(ids) <= self.config.context and all(0 <= i < len(self.alphabet) for i in ids)
        if not fits:
            allowed = f"1 to {self.config.context} ids below {len(self.alphabet)}"
            raise DataError(f"MicroGPT: ids must be {allowed}, got {list(ids)}")
        x_TC = [rms_norm(add(self.token_VC[i], self.position_TC[t])) for t, i in enumerate(ids)]
        for block in self.blocks:
            read_TC = self._attend(block, [rms_norm(x_C) for x_C in x_TC])
            x_TC = [add(x_C, read_C) for x_C, read_C in zip(x_TC, read_TC, strict=True)]
            x_TC = [add(x_C, feedforward(block, rms_norm(x_C))) for x_C in x_TC]
        return [linear(self.head_VC, x_C) for x_C in x_TC]

    def _attend(self, block: Block, x_TC: Matrix) -> Matrix:
        """What each position reads of itself and of those before it."""
        q_TC, k_TC, v_TC = ([linear(w, x_C) for x_C in x_TC] for w in (block.query_CC, block.key_CC, block.value_CC))
        size = self.config.width // self.config.heads
        out_TC: Matrix = []
        for t, q_C in enumerate(q_TC):
            out_C: Vector = []
            for start in range(0, self.config.width, size):
                head = slice(start, start + size)
                scores = [dot(q_C[head], k_C[head]) * (1 / math.sqrt(size)) for k_C in k_TC[: t + 1]]
                weights = softmax(scores)
                out_C += [dot(weights, [v_C[i] for v_C in v_TC[: t + 1]]) for i in range(start, start + size)]
            out_TC.append(linear(block.project_CC, out_C))
        return out_TC

    def loss(self, name: str) -> Value:
        """The mean over the name's characters and its end of -log of their chance, in nats."""
        ids = self.ids_of(name)
        chances = [softmax(logits_V)[target] for logits_V, target in zip(self(ids[:-1]), ids[1:], strict=True)]
        return sum((-chance.log() for chance in chances), Value(0.0)) * (1 / len(chances))

    def sample(self, draw: random.Random) -> str:
        """A name drawn from the model, at most as long as the context."""
        ids = [0]
        while len(ids) <= self.config.context:
            chances = [chance.data for chance in softmax(self(ids)[-1])]
            [drawn] = draw.choices(range(len(chances)), chances)
            if drawn == 0:
                break
            ids.append(drawn)
        return "".join(self.alphabet[i] for i in ids[1:])


def matrix(rows: int, columns: int, draw: random.Random) -> Matrix:
    """Weights drawn from N(0, .08)."""
    return [[Value(draw.gauss(0.0, INIT_STD)) for _ in range(columns)] for _ in range(rows)]


def add(left: Vector, right: Vector) -> Vector:
    """The sums, place by place."""
    return [a + b for a, b in zip(left, right, strict=True)]


def dot(left: Sequence[Value], right: Sequence[Value]) -> Value:
    """The sum of the products."""
    return weighted_sum(left[1:], right[1:], left[0] * right[0])


def linear(weight: Matrix, x: Vector) -> Vector:
    """The dot product of each row with x."""
    return [dot(row, x) for row in weight]


def feedforward(block: Block, x: Vector) -> Vector:
    """Two linear layers, four times as wide in between, with relu."""
    return linear(block.shrink_C4C, [hidden.relu() for hidden in linear(block.expand_4CC, x)])


def softmax(logits: Vector) -> Vector:
    """Chances in proportion to e**logit.

    >>> [round(chance.data, 4) for chance in softmax([Value(0.0), Value(math.log(3)), Value(-1000.0)])]
    [0.25, 0.75, 0.0]
    """
    largest = max(logit.data for logit in logits)  # taken off, so that no power overflows; it changes no chance
    powers = [(logit - largest).exp() for logit in logits]
    total = sum(powers[1:], powers[0])
    return [power / total for power in powers]


def rms_norm(x: Vector) -> Vector:
    """x, scaled to a mean square of 1."""
    scale = (dot(x, x) * (1 / len(x)) + 1e-5) ** -0.5
    return [value * scale for value in x]


class Adam:
    """Kingma and Ba's update (2015), algorithm 1."""

    def __init__(
        self, parameters: Sequence[Value], rate: float = 0.01, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        """For these parameters, with the means of gradients and of their squares at 0."""
        self.parameters = list(parameters)
        self.rate, self.betas, self.steps = rate, betas, 0
        self.mean = [0.0] * len(self.parameters)
        self.square = [0.0] * len(self.parameters)

    def step(self) -> None:
        """Updates each parameter against its gradient, and sets the gradient to 0."""
        self.steps += 1
        beta1, beta2 = self.betas
        rate = self.rate / (1 - beta1**self.steps)
        for i, p in enumerate(self.parameters):
            self.mean[i] += (1 - beta1) * (p.grad - self.mean[i])
            self.square[i] += (1 - beta2) * (p.grad**2 - self.square[i])
            p.data -= rate * self.mean[i] / (math.sqrt(self.square[i] / (1 - beta2**self.steps)) + 1e-8)
            p.grad = 0.0


def train(model: MicroGPT, names: Sequence[str], steps: int, rate: float = 0.01) -> Iterator[float]:
    """Trains on one name a step, in their order and then again from the first, the rate falling to 0.

    Yields:
        the loss of each step's name before the update, in nats per character.

    Raises:
        DataError: if a name does not fit the model.
        NonFiniteError: if loss or gradient is not finite.
    """
    adam = Adam(model.parameters(), rate)
    for step in range(steps):
        loss = model.loss(names[step % len(names)])
        loss.backward()
        adam.rate = rate * (1 - step / steps)
        adam.step()
        yield loss.data
