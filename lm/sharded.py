"""Tensors of which each process holds a part, as one safetensors file: the very bytes that one process would write.

Each process writes its parts, through torch's distributed checkpoints, and main strings them together, one part in
memory at a time. Any number of processes can go on from the file, each reading its own slices.

torch would put the parts together itself, but (2.13, `consolidate_safetensors_files`) a tensor without dimensions, as
is the optimizer's count of steps, becomes 0, integers raise, and the header is not padded to eight bytes as the
format's own writer does.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from bpetok.files import give_usual_mode
from lm.world import World, is_cut, together


def write(path: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Writes a file of whole tensors; all processes call it, and on return it is there for all.

    Args:
        path: the file, in a folder that is there for all processes; written over if it is there. A folder for the parts
            stands beside it meanwhile, and stays behind if a process is killed.
        tensors: by name, the same names in each process. What is not cut up must be equal in all of them; where
            nothing is, main writes the file at once.
        world: the processes.

    Raises:
        OSError: if a process cannot write; in all of them.
    """
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    if not any(is_cut(tensor) for tensor in plain.values()):
        with together(world):
            if world.is_main:
                safetensors.torch.save_file(plain, path)
                give_usual_mode(path)
        return
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    parts = path.with_name(f".{path.name}.parts")
    with together(world):
        if world.is_main:
            shutil.rmtree(parts, ignore_errors=True)
    with _plain_errors():
        save(dict(plain), storage_writer=HuggingFaceStorageWriter(str(parts), save_distributed=True))
    with together(world):
        if world.is_main:
            _join(parts, path)
            shutil.rmtree(parts)


@torch.no_grad()
def fill(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Reads tensors from a file into those that are there; all processes call it, and each reads its parts alone.

    Args:
        path: the file.
        tensors: by name, of the shapes that they have in the file; it may have more.

    Raises:
        OSError: if a process cannot read; in all of them.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    if not torch.distributed.is_initialized():  # torch would warn that there is one process
        with safe_open(path, framework="pt") as file:
            for name, tensor in tensors.items():
                tensor.copy_(file.get_tensor(name))
    elif tensors:
        with _plain_errors():
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(path.parent)))


def read_like(path: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an optimizer has kept for its parameters, cut up as they are; all processes call it.

    Args:
        path: a file of tensors that are called `<parameter's name>.<what>`.
        parameters: by name. What has their shape is cut up like them; what has not is whole everywhere.

    Returns:
        the tensors of the file whose parameters are named, by their own names.
    """
    tensors = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            parameter = parameters.get(name.rpartition(".")[0])
            if parameter is None:
                continue
            shape, dtype = file.get_slice(name).get_shape(), _DTYPES[file.get_slice(name).get_dtype()]
            like = list(parameter.shape) == shape
            tensors[name] = (
                torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
                if like
                else torch.zeros(shape, dtype=dtype)
            )
    fill(path, tensors)
    return tensors


_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
"""The format's names of the dtypes; its own writer puts the last of them first into a file."""


def _join(parts: Path, path: Path) -> None:
    """Strings the parts of all tensors together, in the order of the format's own writer."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    metadata = HuggingFaceStorageReader(str(parts)).read_metadata()
    order = list(_DTYPES.values())
    known = cast("dict[str, Any]", metadata.state_dict_metadata)
    names = sorted(known, key=lambda name: (-order.index(known[name].properties.dtype), name))
    files = {index: info.relative_path for index, info in metadata.storage_data.items()}
    with path.open("wb") as file:
        file.write(_header({name: known[name] for name in names}))
        for name in names:
            for chunk in sorted(known[name].chunks, key=lambda chunk: tuple(chunk.offsets)):
                # Whole rows, one process after the other: FSDP cuts along the first dimension alone.
                assert not any(chunk.offsets[1:]) and chunk.sizes[1:] == known[name].size[1:], (name, chunk)
                with safe_open(files[_place(name, chunk)], framework="pt") as part:
                    tensor = part.get_tensor(name)
                file.write(tensor.reshape(-1).view(torch.uint8).numpy())


def _place(name: str, chunk: Any) -> Any:
    from torch.distributed.checkpoint.metadata import MetadataIndex

    return MetadataIndex(fqn=name, offset=chunk.offsets)


def _header(known: Mapping[str, Any]) -> bytes:
    """The length of what follows, and as JSON where each tensor stands, padded to a multiple of eight bytes."""
    dtype_names = {dtype: name for name, dtype in _DTYPES.items()}
    entries, end = {}, 0
    for name, entry in known.items():
        start, end = end, end + entry.size.numel() * entry.properties.dtype.itemsize
        dtype = dtype_names[entry.properties.dtype]
        entries[name] = {"dtype": dtype, "shape": list(entry.size), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raises what went wrong in the process that failed, where torch has wrapped it up.

    torch's own exception is no `Exception`, so nobody would catch it, nor see that the disk was full.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from error
