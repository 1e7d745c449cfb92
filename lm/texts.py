"""The lectures' two texts: found on this machine, or downloaded once and checked.

names.txt is 32,033 first names, one a line (karpathy/makemore); tinyshakespeare.txt is 1,115,394 characters of plays
(karpathy/char-rnn). They are looked for in the folder that the environment variable `BPETOK_DATA` names, then in
bpetok's cache folder (`BPETOK_CACHE_DIR`, else the user's); where neither has one it is downloaded into the second.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bpetok.encodings import cache_folder
from bpetok.errors import CorruptionError, UnavailableError

_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class KnownText:
    """A published text: where it is, and the sha256 of its content."""

    url: str
    sha256: str


KNOWN = {
    "names.txt": KnownText(
        "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    ),
    "tinyshakespeare.txt": KnownText(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}
"""The texts by the name that `data.text` may give in place of a path."""


def find(name: str) -> Path:
    """The file of a known text, downloaded if it is not here yet.

    Args:
        name: a key of `KNOWN`.

    Raises:
        UnavailableError: if it is nowhere and cannot be downloaded; says what to fetch and where to put it.
        CorruptionError: if a file of that name is another text.
    """
    text = KNOWN[name]
    folders = [cache_folder()]
    if chosen := os.environ.get("BPETOK_DATA"):
        folders.insert(0, Path(chosen))
    for folder in folders:
        if (folder / name).is_file():
            return _checked(folder / name, text)
    return _download(name, text, folders[-1])


def _checked(path: Path, text: KnownText) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != text.sha256:
        message = f"{path}: sha256 must be {text.sha256}, got {digest}"
        raise CorruptionError(message, hint=f"remove it, and it is fetched again from {text.url}")
    return path


def _download(name: str, text: KnownText, folder: Path) -> Path:
    import pooch

    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)
    pooch.get_logger().setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(pooch.retrieve(text.url, f"sha256:{text.sha256}", name, folder, downloader=downloader))
    except Exception as error:  # pooch and requests raise many kinds, ValueError for a wrong checksum among them
        message = f"{name}: {text.url} is not on this machine and could not be downloaded: {error!s:.200}"
        hint = f"fetch it elsewhere and put it here: {folder / name}, or let BPETOK_DATA name its folder"
        raise UnavailableError(message, hint=hint) from error
