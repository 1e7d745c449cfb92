"""What lm raises on purpose; one tree, under bpetok's.

    BpetokError                      bpetok.errors: message, hint
    ├── DataError                    bpetok.errors: a split too small for what is asked of it
    ├── IncompatibleError            bpetok.errors: another vocabulary, another rung, another recipe
    ├── MissingExtraError            bpetok.errors: an optional package is not installed
    └── LmError
        ├── ConfigError              (ValueError)       a setting is unknown, missing, mistyped or impossible
        ├── CheckpointError          (ValueError)       a checkpoint is missing or in the way
        │   └── DamagedError         (CorruptionError)  a checkpoint is not as it was written
        ├── NonFiniteError           (ArithmeticError)  loss or gradient is nan or inf; no update was made
        ├── OutOfMemory              (MemoryError)      a step does not fit the memory; the hint says what to lower
        └── Preempted                                   SIGTERM came; the step is finished and saved

Messages read `<where>: <name> must be <expected>, got <value>`; the hint says what to do.
"""

from bpetok.errors import BpetokError, CorruptionError


class LmError(BpetokError):
    """The root of everything that lm raises on purpose."""


class ConfigError(LmError, ValueError):
    """A setting is unknown, missing, mistyped, out of range or contradicts another."""


class CheckpointError(LmError, ValueError):
    """A checkpoint is missing or in the way."""


class DamagedError(CheckpointError, CorruptionError):
    """A checkpoint is not as it was written."""


class NonFiniteError(LmError, ArithmeticError):
    """The loss or the gradient is nan or infinite; raised before the weights are updated."""


class OutOfMemory(LmError, MemoryError):
    """A step does not fit the memory of the device."""


class Preempted(LmError):
    """The run was asked to end (SIGTERM): the step was finished and a checkpoint saved."""


def require(ok: bool, name: str, expected: str, got: object, hint: str | None = None) -> None:
    """Nothing, where `ok`; else the ConfigError `<name> must be <expected>, got <got>`.

    Raises:
        ConfigError: if not `ok`.
    """
    if not ok:
        raise ConfigError(f"{name} must be {expected}, got {got!r}", hint=hint)
