"""What training costs beyond the table of `bench_train.py`: `python benchmarks/study_train.py STUDY [--rounds N]`.

| study | what is measured |
|---|---|
| file | training from a file beside training from memory and reading the file once |
| no-split | 10 MB of English documents, each one pretoken, beside rustbpe: the same merges, then the time |
| letter | 100 MB of one letter, one pretoken |
| growth | time and memory by the size of the corpus and by that of the vocabulary |
| sentencepiece | its BPE, for the record: another algorithm on other symbols, so other tokens |

Every turn is a fresh process, and the turns of a round follow each other. Needs Linux, for the memory.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench_train import DATA, english, forget_peak, languages, memory, train_bpetok, train_rustbpe
from turn import documents

EVERYTHING = r"[\s\S]+"  # a pattern that does not cut, for those that need one
CORPUS_SHARES = (1, 2, 4, 8)
VOCAB_SIZES = (8_192, 16_384, 32_768, 65_536, 100_000, 200_000)

Turn = Callable[[], object]


def novels() -> bytes:
    return lzma.decompress((DATA / "lm" / "english_novels_train.txt.xz").read_bytes())


# ---- turns: what is made beforehand, and what is timed --------------------------------------------------------------


def from_memory(path: str) -> Turn:
    import bpetok

    text = Path(path).read_text(encoding="utf-8")
    return lambda: bpetok.train(text, 32_768, pattern="gpt2")


def from_file(path: str) -> Turn:
    import bpetok

    return lambda: bpetok.train(Path(path), 32_768, pattern="gpt2")


def reading(path: str) -> Turn:
    return lambda: Path(path).read_text(encoding="utf-8")


def english_unsplit() -> list[str]:
    return list(documents(novels()[:10_000_000]))


def unsplit(library: str, size: str) -> Turn:
    texts = english_unsplit()
    if library == "bpetok":
        import bpetok

        return lambda: _tokens_of(bpetok.train(texts, int(size), pattern=None), int(size))
    import rustbpe

    def train() -> list[str]:
        tok = rustbpe.Tokenizer()
        tok.train_from_iterator(iter(texts), int(size), pattern=EVERYTHING)
        ranks = sorted(tok.get_mergeable_ranks(), key=lambda pair: pair[1])
        return [bytes(token).hex() for token, _ in ranks][256:]

    return train


def _tokens_of(tok: object, size: int) -> list[str]:
    return [tok.vocab[i].hex() for i in range(256, size)]  # type: ignore[attr-defined]


def letter() -> Turn:
    import bpetok

    text = "a" * 100_000_000
    return lambda: bpetok.train(text, 512, pattern=None)


def grown(library: str, corpus: str, share: str, size: str) -> Turn:
    texts = {"english": english, "languages": languages}[corpus]()
    # The languages stand one behind the other: a part of them is every so many documents.
    texts = texts[:: 8 // int(share)] if corpus == "languages" else texts[: len(texts) * int(share) // 8]
    train = {"bpetok": train_bpetok, "rustbpe": train_rustbpe}[library]
    return lambda: train(texts, int(size))


def sentencepiece_bpe(size: str) -> Turn:
    import io

    import sentencepiece

    lines = [line for text in english() for line in text.splitlines() if line.strip()]
    return lambda: sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=io.BytesIO(),
        model_type="bpe",
        vocab_size=int(size),
        byte_fallback=True,
        num_threads=2,
        max_sentence_length=1 << 20,
        minloglevel=2,
    )


TURNS: dict[str, Callable[..., Turn]] = {
    one.__name__: one for one in (from_memory, from_file, reading, unsplit, letter, grown, sentencepiece_bpe)
}


def take_turn(name: str, arguments: list[str]) -> None:
    work = TURNS[name](*arguments)
    forget_peak()
    before = memory("VmRSS")
    began = time.perf_counter()
    outcome = work()
    seconds = time.perf_counter() - began
    told = outcome if isinstance(outcome, list) else None
    print(json.dumps({"seconds": seconds, "MiB": memory("VmHWM") - before, "outcome": told}))


def turn(name: str, *arguments: object) -> dict[str, object]:
    command = [sys.executable, __file__, "turn", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def seconds_of(turns: list[dict[str, object]]) -> list[float]:
    return [float(str(one["seconds"])) for one in turns]


def middle(turns: list[dict[str, object]], what: str) -> float:
    return statistics.median(float(str(one[what])) for one in turns)


# ---- studies --------------------------------------------------------------------------------------------------------


def study_file(rounds: int) -> None:
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(novels())
        file.flush()
        ratios = []
        for _ in range(rounds):
            there, here, read = (turn(name, file.name) for name in ("from_file", "from_memory", "reading"))
            file_, memory_, read_ = seconds_of([there, here, read])
            ratios.append(file_ / (memory_ + read_))
            print(f"  file {file_:.3f} s, memory {memory_:.3f} s and reading {read_:.3f} s: {ratios[-1]:.2f}")
    print(f"file / (memory + reading): {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), bar 1")


def study_no_split(rounds: int) -> None:
    for size in (8_192, 32_768):
        pairs = [(turn("unsplit", "bpetok", size), turn("unsplit", "rustbpe", size)) for _ in range(rounds)]
        assert all(ours["outcome"] == theirs["outcome"] for ours, theirs in pairs), "other merges"
        ratios = [float(str(theirs["seconds"])) / float(str(ours["seconds"])) for ours, theirs in pairs]
        ours, theirs = zip(*pairs, strict=True)
        print(
            f"{size:,} tokens, the same merges: bpetok {middle(list(ours), 'seconds'):.2f} s, "
            f"{middle(list(ours), 'MiB'):.0f} MiB; rustbpe {middle(list(theirs), 'seconds'):.2f} s, "
            f"{middle(list(theirs), 'MiB'):.0f} MiB; {statistics.median(ratios):.1f} times as fast, bar 10"
        )


def study_letter(rounds: int) -> None:
    turns = [turn("letter") for _ in range(rounds)]
    print(f"100 MB of one letter: {middle(turns, 'seconds'):.2f} s, {middle(turns, 'MiB'):.0f} MiB, bar 10 s")


def study_growth(rounds: int) -> None:
    for corpus in ("english", "languages"):
        cells = [(share, 32_768) for share in CORPUS_SHARES] + [(8, size) for size in VOCAB_SIZES]
        for share, size in cells:
            ours, theirs = (
                [turn("grown", library, corpus, share, size) for _ in range(rounds)]
                for library in ("bpetok", "rustbpe")
            )
            print(
                f"| {corpus} {share}/8 | {size:,} | {middle(ours, 'seconds'):.3f} | {middle(ours, 'MiB'):.0f} "
                f"| {middle(theirs, 'seconds'):.2f} | {middle(theirs, 'MiB'):.0f} |"
            )


def study_sentencepiece(rounds: int) -> None:
    turns = [turn("sentencepiece_bpe", 32_768) for _ in range(rounds)]
    print(f"sentencepiece BPE, 32,768, English: {middle(turns, 'seconds'):.1f} s, {middle(turns, 'MiB'):.0f} MiB")


STUDIES = {
    "file": study_file,
    "no-split": study_no_split,
    "letter": study_letter,
    "growth": study_growth,
    "sentencepiece": study_sentencepiece,
}


def main() -> None:
    if sys.argv[1:2] == ["turn"]:
        take_turn(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    STUDIES[options.study](options.rounds)


if __name__ == "__main__":
    main()
