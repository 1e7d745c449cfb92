"""`bpetok info`, `merges`, `compare` and `report`, as their users type them."""

import bpetok
from bpetok import report
from bpetok.reportpage import page


def test_info_tells_a_tokenizer_and_a_folder_of_shards(call, folder, tok) -> None:
    about = call("bpetok", "info", "my.bpetok", "--json", cwd=folder).json
    assert about["ids"] == 301 and about["fingerprint"] == tok.fingerprint and about["pattern"] == "gpt4"
    assert (about["tokens"], about["unused_ids"], about["semantics"], about["unicode"]) == (300, 0, "rank", "16.0")
    longest = about["longest_tokens"][0]
    assert (
        longest["bytes"] == max(map(len, tok.token_byte_values())) and tok.decode([longest["id"]]) == longest["token"]
    )
    assert about["provenance"]["vocab_size"] == 300
    shown = call("bpetok", "info", "my.bpetok", cwd=folder).text
    assert tok.fingerprint in shown and "<|endoftext|> 300" in shown and "\n  vocab size " in shown
    call("bpetok", "shard", "corpus.txt", "-t", "my.bpetok", "-o", "shards", cwd=folder)
    about = call("bpetok", "info", "shards", "--json", cwd=folder).json
    assert about["train"]["bytes_of_text"] + about["val"]["bytes_of_text"] == (folder / "corpus.txt").stat().st_size


def test_info_measures_a_tokenizer_on_a_text_by_script(call, folder, tok) -> None:
    (folder / "mixed.txt").write_text("The cats мир")
    measured = call("bpetok", "info", "my.bpetok", "--text", "mixed.txt", "--json", cwd=folder).json["text"]
    assert measured["tokens"] == tok.count("The cats мир") and measured["bytes"] == 15
    assert measured["scripts"]["Cyrillic"]["words"] == 1 and measured["scripts"]["Latin"]["words"] == 2
    assert "Cyrillic" in call("bpetok", "info", "my.bpetok", "--text", "mixed.txt", cwd=folder).text


# ---- merges ----------------------------------------------------------------------------------------------------------


def test_merges_draws_the_tree_of_a_token(call, folder) -> None:
    bpetok.train("low lower lowest", 258, pattern="gpt2", special_tokens=["<|x|>"]).save(folder / "low.bpetok")
    shown = call("bpetok", "merges", "low", "-t", "low.bpetok", cwd=folder).text
    assert shown == "'low' 257\n├─ 'lo' 256\n│  ├─ 'l' 108\n│  └─ 'o' 111\n└─ 'w' 119\n"
    assert call("bpetok", "merges", "--id", 257, "-t", "low.bpetok", cwd=folder).text == shown
    about = call("bpetok", "merges", r"l\x6fw", "-t", "low.bpetok", "--json", cwd=folder).json
    assert (about["id"], about["merged"], about["special"]) == (257, True, False)
    assert about["trees"][0]["parts"][1] == {"token": "w", "id": 119, "rank": None, "parts": []}
    several = call("bpetok", "merges", r"low\xff", "-t", "low.bpetok", cwd=folder).text
    assert several.startswith("'low\\xff' is no token; its bytes become these 2:\n'low' 257\n")
    special = call("bpetok", "merges", "<|x|>", "-t", "low.bpetok", cwd=folder).text
    assert special == "'<|x|>' is a special token, id 258: no merge makes it\n"


def test_merges_says_so_where_no_merge_makes_a_token(call, folder) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"xyz": 256}
    bpetok.Tokenizer(bpetok.Vocab(ranks)).save(folder / "odd.bpetok")
    done = call("bpetok", "merges", "xyz", "-t", "odd.bpetok", cwd=folder)
    assert done.text.startswith("'xyz' is a token, id 256, that no merge makes; its bytes become these 3:\n'x' 120\n")
    assert call("bpetok", "merges", "-t", "odd.bpetok", cwd=folder).code == 2
    both = call("bpetok", "merges", "xyz", "--id", 256, "-t", "odd.bpetok", cwd=folder)
    assert both.code == 2 and "TOKEN or --id: give one of them" in both.err
    assert call("bpetok", "merges", "", "-t", "odd.bpetok", cwd=folder).code == 3
    assert call("bpetok", "merges", "--id", 999, "-t", "odd.bpetok", cwd=folder).code == 3


# ---- compare ---------------------------------------------------------------------------------------------------------


def test_compare_counts_and_shows_where_tokenizers_differ(call, folder, tok) -> None:
    other = bpetok.train(folder / "corpus.txt", 280, pattern="gpt2", name="other")
    other.save(folder / "other.bpetok")
    text = (folder / "corpus.txt").read_bytes()
    expected = report.compare([tok, other], text, how_many=2)
    done = call("bpetok", "compare", "my.bpetok", "other.bpetok", "corpus.txt", "--show", 2, "--json", cwd=folder).json
    assert [one["tokens"] for one in done["tokenizers"]] == [tok.count(text), other.count(text)]
    assert (done["different_spans"], done["different_bytes"]) == (expected.spans, expected.span_bytes)
    assert [one["byte"] for one in done["first"]] == [one.byte for one in expected.first] and len(done["first"]) == 2
    shown = call("bpetok", "compare", "my.bpetok", "other.bpetok", "corpus.txt", cwd=folder).text
    assert f"{expected.spans:,} spans differ" in shown
    first = expected.first[0]
    assert (
        f"line {first.line}, byte {first.byte}\n  my         {'│'.join(map(report.readable, first.cuts[0]))}\n" in shown
    )


def test_compare_tells_whether_the_ways_of_merging_differ(call, folder) -> None:
    done = call("bpetok", "compare", "my.bpetok", "--semantics", "corpus.txt", cwd=folder)
    assert done.code == 0 and done.text.endswith("all cut the text alike\n") and "my, merges" in done.text
    alone = call("bpetok", "compare", "my.bpetok", "corpus.txt", cwd=folder)
    assert alone.code == 2 and "give two tokenizers or more" in alone.err


# ---- report ----------------------------------------------------------------------------------------------------------


def test_report_prints_and_writes_what_the_library_measures(call, folder, tok) -> None:
    data = (folder / "corpus.txt").read_bytes()
    expected = report.measure(tok, [data, data])
    done = call("bpetok", "report", "my.bpetok", "corpus.txt", "corpus.txt", "--html", "r.html", "--json", cwd=folder)
    assert done.json == expected.to_dict() and done.err == ""
    assert (folder / "r.html").read_text() == page(expected)
    shown = call("bpetok", "report", "my.bpetok", cwd=folder, given=data * 2).text
    assert f"{expected.use.tokens:,} tokens" in shown and "\nLatin " in shown
    assert f"{len(expected.never_used)} of 44 tokens" in shown
    assert call("bpetok", "report", "my.bpetok", cwd=folder).code == 0, "no text is measured too"
