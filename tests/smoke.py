"""Smoke test of an installed package: `python tests/smoke.py PATH/TO/bpetok`, run away from the checkout."""

import importlib.util
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import bpetok

CHECKOUT = Path(__file__).resolve().parents[1]


def run(*command: str, given: bytes = b"", code: int = 0) -> bytes:
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == code, (command, done.returncode, done.stderr.decode())
    return done.stdout if code == 0 else done.stderr


def main(program: str) -> None:
    assert CHECKOUT not in Path(bpetok.__file__).resolve().parents, bpetok.__file__
    assert (files("bpetok") / "vocabularies" / "README.md").is_file()
    text = Path(bpetok.__file__).read_text()
    for name in ("bpetok_32k", "bpetok_64k"):  # with no file and no network
        shipped = bpetok.get_encoding(name)
        assert shipped.decode(shipped.encode_ordinary(text)) == text
        assert shipped == bpetok.load(Path(str(files("bpetok") / "vocabularies" / f"{name}.bpetok")))
    ids = run(program, "encode", given=text.encode())
    assert [int(token_id) for token_id in ids.split()] == bpetok.get_encoding("bpetok_32k").encode_ordinary(text)
    tok = bpetok.train(text, vocab_size=400, special_tokens=["<|endoftext|>"])
    assert tok.decode(tok.encode_ordinary(text)) == text
    with tempfile.TemporaryDirectory() as folder:
        saved = str(Path(folder) / "smoke.bpetok")
        tok.save(saved)
        assert bpetok.load(saved) == tok
        everything = bytes(range(256)) * 100
        ids = run(program, "encode", "-t", saved, "--binary", given=everything)
        assert run(program, "decode", "-t", saved, "--binary", given=ids) == everything
        if importlib.util.find_spec("torch") is None:
            lm = str(Path(program).with_name("lm"))
            assert b'pip install "bpetok[lm]"' in run(lm, "quickstart", "-o", str(Path(folder) / "run"), code=1)
    print(f"bpetok {bpetok.__version__} works from {Path(bpetok.__file__).parent.parent.name}")


if __name__ == "__main__":
    main(sys.argv[1])
