import hashlib
import os
import socket
from pathlib import Path

import pooch
import pytest

from bpetok.errors import CorruptionError, UnavailableError
from lm.texts import KNOWN, KnownText, find

CONTENT = b"emma\nava\n"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """`(data, cache)`: where a text is looked for; names.txt is another, tiny text here, and there is no network."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("BPETOK_DATA", str(data))
    monkeypatch.setenv("BPETOK_CACHE_DIR", str(cache))
    monkeypatch.setitem(KNOWN, "names.txt", KnownText("https://host/names.txt", hashlib.sha256(CONTENT).hexdigest()))

    def no_network(*arguments: object, **settings: object) -> None:
        raise AssertionError("a test must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(pooch, "retrieve", no_network)
    return data, cache


def test_the_data_folder_comes_before_the_cache(folders: tuple[Path, Path]) -> None:
    data, cache = folders
    cache.mkdir()
    (cache / "names.txt").write_bytes(CONTENT)
    assert find("names.txt") == cache / "names.txt"
    (data / "names.txt").write_bytes(CONTENT)
    assert find("names.txt") == data / "names.txt"


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_data_folder_the_cache_is_the_place(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    data, cache = folders
    (data / "names.txt").write_bytes(b"another text, in the current folder")
    monkeypatch.chdir(data)
    monkeypatch.delenv("BPETOK_DATA") if value is None else monkeypatch.setenv("BPETOK_DATA", value)
    cache.mkdir()
    (cache / "names.txt").write_bytes(CONTENT)
    assert find("names.txt") == cache / "names.txt"


@pytest.mark.parametrize("place", [0, 1], ids=["data", "cache"])
def test_a_file_of_another_content_is_refused_wherever_it_lies(folders: tuple[Path, Path], place: int) -> None:
    folders[place].mkdir(exist_ok=True)
    path = folders[place] / "names.txt"
    path.write_bytes(CONTENT + b"x")
    expected, got = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(CONTENT + b"x").hexdigest()
    message = rf"{path}: sha256 must be {expected}, got {got}\nhint: remove it, and it is fetched again from https"
    with pytest.raises(CorruptionError, match=message):
        find("names.txt")
    assert path.read_bytes() == CONTENT + b"x", "it may be the user's own"


def test_a_text_that_is_nowhere_is_downloaded_into_the_cache_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache = folders
    calls = []

    def retrieve(url: str, known_hash: str, name: str, folder: Path, **settings: object) -> str:
        calls.append((url, known_hash, name, folder))
        (folder / name).write_bytes(CONTENT)
        return str(folder / name)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert find("names.txt") == find("names.txt") == cache / "names.txt"
    known_hash = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert calls == [("https://host/names.txt", known_hash, "names.txt", cache)]


@pytest.mark.parametrize("failure", [OSError("no route to host"), ValueError("SHA256 hash of downloaded file")])
def test_without_a_network_the_error_names_the_address_and_the_place(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def retrieve(*arguments: object, **settings: object) -> None:
        raise failure

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    place = folders[1] / "names.txt"
    message = (
        rf"names.txt: https://host/names.txt is not on this machine and could not be downloaded: {failure}\n"
        rf"hint: fetch it elsewhere and put it here: {place}, or let BPETOK_DATA name its folder"
    )
    with pytest.raises(UnavailableError, match=message):
        find("names.txt")


def test_a_cache_that_cannot_be_made_is_no_bare_oserror(folders: tuple[Path, Path]) -> None:
    folders[1].write_bytes(b"a file in its place")
    with pytest.raises(UnavailableError, match=r"names.txt: https://host/names.txt is not on this machine"):
        find("names.txt")


def test_both_texts_of_the_lectures_are_known_by_address_and_checksum() -> None:
    assert KNOWN.keys() == {"names.txt", "tinyshakespeare.txt"}
    for text in KNOWN.values():
        assert text.url.startswith("https://") and len(bytes.fromhex(text.sha256)) == 32


@pytest.mark.parametrize(("name", "size"), [("names.txt", 228_145), ("tinyshakespeare.txt", 1_115_394)])
def test_the_texts_in_the_data_folder_are_those_of_the_lectures(name: str, size: int) -> None:
    folder = os.environ.get("BPETOK_DATA")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"BPETOK_DATA is not set to a folder with {name}")
    path = find(name)
    assert path == Path(folder) / name and path.stat().st_size == size
