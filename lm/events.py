"""What a run tells whoever watches: an event for each thing that happened."""

from dataclasses import dataclass
from pathlib import Path

from lm.evaluate import Evaluation


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
        device: where it computes, by the name of the device.
        dtype: of the matrix products.
        compiled: whether steps run through `torch.compile`.
        processes: how many share the work.
    """

    rung: str
    parameters: int
    vocab_size: int
    train_tokens: int
    val_tokens: int
    step: int
    device: str
    dtype: str
    compiled: bool
    processes: int


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """A step was made.

    Args:
        step: updates made so far, this one included.
        steps: updates of the whole run.
        loss: nats per token over the step's targets, before the update.
        lr: the learning rate of the update.
        grad_norm: of the gradient, before clipping.
        tokens: targets learnt from so far, in all processes.
        seconds: since this call of `train` began.
        tokens_per_second: over the last steps, evaluations left out; None at the first step.
        mfu: the share of the devices' peak that went into the model's own products, 0 to 1; None where it is not known.
    """

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float | None = None
    mfu: float | None = None


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
