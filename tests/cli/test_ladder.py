from pathlib import Path

import pytest

from lm.figures import read_rows


@pytest.fixture(autouse=True)
def _texts_at_hand(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPETOK_DATA", str(data))


def test_the_walk_prints_a_table_and_adds_its_rows_to_a_file(call, tmp_path: Path) -> None:
    for only in ("trigram", "bigram (counts)"):
        done = call("lm", "ladder", "--only", only, "-o", "ladder.json", cwd=tmp_path)
        assert done.code == 0
        assert done.text.splitlines()[0].startswith("| rung | parameters | train | dev | reference |")
    assert "| bigram (counts) | 729 | 2.4540 |  | 2.4540 | +0.0000 |" in done.text
    assert "bigram (counts)" in done.err
    rows = read_rows(tmp_path / "ladder.json")
    assert [row.rung for row in rows] == ["bigram (counts)", "trigram (counts)"]


def test_rows_come_as_json_too(call, tmp_path: Path) -> None:
    done = call("lm", "ladder", "--only", "(counts)", "-q", "--json", cwd=tmp_path)
    rows = done.json["rows"]
    assert [row["rung"] for row in rows] == ["bigram (counts)", "trigram (counts)"]
    assert rows[0]["reference"]["train"] == pytest.approx(rows[0]["train"], abs=1e-9)
    assert not done.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--only", "nope"], 2, "--only must name one of autograd: moons; bigram (counts); "),
        (["--only", "MLP", "--seeds", "0"], 2, "ladder: seeds must be at least 1, got 0"),
        (["--only", "MLP", "--seeds", "2", "--readable"], 2, "ladder: seeds must be 1 on the readable path, got 2"),
        (["--only", "(counts)", "-o", "other.json"], 3, "other.json: must be a ladder's JSON file"),
    ],
)
def test_a_mistake_gives_its_exit_code(call, tmp_path: Path, args: list[str], code: int, message: str) -> None:
    (tmp_path / "other.json").write_text('{"rows": [{"rung": 1}]}')
    done = call("lm", "ladder", *args, cwd=tmp_path)
    assert (done.code, message in done.err) == (code, True), done.err
