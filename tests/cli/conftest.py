"""What the tests of the command lines share: running them, and a folder of things to run them on."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bpetok
import cli.bpetok
import cli.lm

TEXT = "".join(f"The {n} cats sat on {n * 7 % 11} mats, and {n * 5 % 13} dogs did not.\n" for n in range(400))


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def run() -> Run:
    """`run("bpetok", "encode", ..., given=b"...", cwd=...)`: a command line in a process of its own."""

    def run(program: str, *args: object, given: bytes = b"", cwd: Path | None = None, timeout: float = 60) -> Done:
        command = [sys.executable, "-m", program, *map(str, args)]
        done = subprocess.run(command, input=given, capture_output=True, cwd=cwd or "/", timeout=timeout, check=False)
        return Done(done.returncode, done.stdout, done.stderr.decode())

    return run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Run:
    """As `run`, in this process, which is ten times quicker: for what neither depends on the process nor changes it."""

    def call(program: str, *args: object, given: bytes = b"", cwd: Path | None = None) -> Done:
        streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for name in ("stdout", "stderr")}
        monkeypatch.setattr(sys, "argv", [program, *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
        code = 0
        with (
            contextlib.chdir(cwd or "/"),
            contextlib.redirect_stdout(streams["stdout"]),
            contextlib.redirect_stderr(streams["stderr"]),
        ):
            try:
                {"bpetok": cli.bpetok, "lm": cli.lm}[program].main()
            except SystemExit as end:
                code = int(end.code or 0)
        out, err = (stream.buffer.getvalue() for stream in streams.values())
        return Done(code, out, err.decode())

    return call


@pytest.fixture(scope="session")
def tok() -> bpetok.Tokenizer:
    return bpetok.train(TEXT, vocab_size=300, special_tokens=["<|endoftext|>"], name="my")


@pytest.fixture(scope="session")
def furnish(tok: bpetok.Tokenizer) -> Callable[[Path], Path]:
    """Puts into a folder what a user has: texts, rows, a tokenizer."""

    def furnish(folder: Path) -> Path:
        (folder / "corpus.txt").write_text(TEXT)
        (folder / "text.txt").write_text("The cats did not sit. <|endoftext|>\n")
        (folder / "books").mkdir()
        (folder / "books" / "one.txt").write_text(TEXT[:2000])
        rows = [json.dumps({"text": line, "id": i}) for i, line in enumerate(TEXT.splitlines())]
        (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
        tok.save(folder / "my.bpetok")
        return folder

    return furnish


@pytest.fixture
def folder(tmp_path: Path, furnish: Callable[[Path], Path]) -> Path:
    """A furnished folder of the test's own."""
    return furnish(tmp_path)


@pytest.fixture(autouse=True, scope="session")
def _quiet_terminal() -> None:
    os.environ["COLUMNS"] = "100"
