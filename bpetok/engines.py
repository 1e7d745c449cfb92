"""Who does the work: this machine, or a Ray cluster."""

from __future__ import annotations

from bpetok.errors import DataError

ENGINES = ("local", "ray")


def is_ray(where: str, engine: str, address: str | None, workers: int | None) -> bool:
    """Whether Ray is to do the work.

    Args:
        where: who asks, for messages.
        engine: "local" or "ray".
        address: of the cluster.
        workers: how many processors may be used; a cluster that runs has its own.

    Raises:
        DataError: the engine is unknown, or the others do not go with it.
        MissingExtraError: Ray is not installed.
    """
    if engine not in ENGINES:
        raise DataError(f"{where}: engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "local":
        if address is not None:
            raise DataError(f'{where}: address must be None unless the engine is "ray", got {address!r}')
        return False
    if address is not None and workers is not None:
        raise DataError(f"{where}: the number of workers must be left to the cluster at {address}, got {workers}")
    from bpetok.cluster import require_ray

    require_ray()
    return True
