import bpetok
from bpetok import shards


def test_shard_writes_what_the_library_writes(run, folder, tok) -> None:
    done = run("bpetok", "shard", "rows.jsonl", "-t", "my.bpetok", "-o", "shards", "--json", cwd=folder)
    assert done.code == 0
    opened = shards.open(folder / "shards")
    opened.check(bpetok.load(folder / "my.bpetok"))
    assert done.json["splits"]["train"]["ids"] == opened.train.tokens
    assert opened.train.documents + opened.val.documents == 400
    assert opened.train.read(0, 1).tolist() == [tok.eot_token]
    opened.verify()


def test_shard_says_what_it_wrote_and_cuts_files_as_told(run, folder) -> None:
    done = run("bpetok", "shard", "corpus.txt", "-t", "my.bpetok", "-o", "shards", "--shard-tokens", 1000, cwd=folder)
    assert done.code == 0
    assert "shards train: " in done.err and "shards val: 1" not in done.out.decode()
    assert len(list((folder / "shards").glob("train_*.bin"))) == len(shards.open(folder / "shards").train.arrays) > 3


def test_shard_refuses_what_it_cannot_do(run, folder) -> None:
    args = ("shard", "corpus.txt", "-t", "my.bpetok", "-o", "shards")
    assert run("bpetok", *args, cwd=folder).code == 0
    again = run("bpetok", *args, cwd=folder)
    assert again.code == 3 and "holds shards already\nhint: " in again.err
    bpetok.train("a b", 258).save(folder / "plain.bpetok")
    plain = run("bpetok", "shard", "corpus.txt", "-t", "plain.bpetok", "-o", "other", cwd=folder)
    assert plain.code == 3 and "has no special token '<|endoftext|>'\nhint: " in plain.err
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{"txt": "not"}\n')
    bad = run("bpetok", "shard", "bad.jsonl", "-t", "my.bpetok", "-o", "bad", cwd=folder)
    assert bad.code == 3 and "bad.jsonl:2: a row must have its text in the field 'text'" in bad.err
    assert not list((folder / "bad").glob("*.bin"))
