r"""How `vocab/*.bpetok` were made: `python benchmarks/train_vocab.py STEP --work FOLDER [--repositories FOLDER]`.

| step | what it does |
|---|---|
| sources | prints how to get the public repositories, each at its commit |
| prepare | takes each source's text out of them, cleans it, writes `FOLDER/train/*.txt` and `FOLDER/held/*.txt` |
| train | counts `FOLDER/train`, weighs the counts, and writes `vocab/bpetok_32k.bpetok` and `vocab/bpetok_64k.bpetok` |
| measure | bytes per token on `FOLDER/held` and on the test data, against OpenAI's vocabularies, as markdown |
| look | the longest tokens and the last merges, to be read by eye |

What cleaning leaves out, so that no person and no junk shapes a token: lines with an e-mail address, a long number in
base 16 or 64, or a run of 100 characters of ASCII without a blank; of those of 30 bytes or more, a line that came
before, that is in the test data (`BPETOK_DATA/corpus`, of which nothing is trained on), or whose first or last 30 bytes
50 lines had before (licences, and articles that are filled-in forms); all but two of the blank lines that follow each
other; files over 4 MiB and files that are not UTF-8.

What is held out: the clean text is cut at the first line's end after each 16,384 bytes; a piece whose sha256, as a
number, divides by 20 is held out.

A repository's folder is `OWNER+NAME`. The standard library is that of the running Python, 3.11.7 for what is shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import lzma
import os
import re
import subprocess
import sysconfig
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import bpetok
from bpetok import PretokenCounts

DATA = Path(os.environ.get("BPETOK_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
VOCAB = Path(__file__).resolve().parents[1] / "vocab"

PATTERN = "gpt4o"
MAX_TOKEN_BYTES = 48
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    *(f"<|reserved_{i}|>" for i in range(57)),
]
SIZES = {"bpetok_32k": 32_768, "bpetok_64k": 65_024}  # all ids, special tokens included; multiples of 128
PEERS = ("gpt2", "cl100k_base", "o200k_base")

# A source a row: its name and group; where it is from (a public repository at a commit, the test data, the standard
# library); its licence; how to read it; which paths; the most of it in MB, which in the group "many" goes for each
# language, the bracket in the paths; and its weight. Of a line that stands in several sources, the first is kept.
TABLE = Path(__file__).with_suffix(".tsv")


@dataclass(frozen=True, slots=True)
class Source:
    """A row of the table."""

    name: str
    group: str
    places: tuple[str, ...]
    licence: str
    kind: str
    keys: tuple[str, ...]
    paths: re.Pattern[str]
    cap: int
    weight: int


def sources() -> list[Source]:
    """The rows of the table."""
    rows = []
    for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        name, group, places, licence, how, paths, cap, weight = line.split("\t")
        kind, *keys = how.split()
        most = int(float(cap) * 1e6)
        compiled = re.compile(paths)
        rows.append(Source(name, group, tuple(places.split()), licence, kind, tuple(keys), compiled, most, int(weight)))
    return rows


# ---- reading: files of a place, and the text in them ----------------------------------------------------------------

MAX_FILE_BYTES = 1 << 22


def git_files(folder: Path, place: str, paths: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    """The files of a repository at its commit whose path matches, in the order of the sha256 of their paths."""
    repository, commit = place.split("@")
    git = ["git", "-C", str(folder / repository.replace("/", "+"))]
    listed = subprocess.run([*git, "ls-tree", "-r", "-z", "--name-only", commit], capture_output=True, check=True)
    names = [name for name in listed.stdout.decode("utf-8", "replace").split("\0") if paths.match(name)]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    with subprocess.Popen([*git, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin and running.stdout
        for name in names:
            running.stdin.write(f"{commit}:{name}\n".encode())
            running.stdin.flush()
            answer = running.stdout.readline().split()
            if len(answer) == 3 and answer[1] == b"blob":
                contents = running.stdout.read(int(answer[2]) + 1)[:-1]
                if len(contents) <= MAX_FILE_BYTES:
                    yield name, contents
        running.stdin.close()


def files_of(source: Source, folder: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a source."""
    for place in source.places:
        if place.startswith("data:"):
            path = DATA / place.removeprefix("data:")
            yield path.name, lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        elif place == "stdlib":
            root = Path(sysconfig.get_paths()["stdlib"])
            for file in sorted(root.rglob("*.py")):
                if not {"site-packages", "test", "tests", "idle_test"} & set(file.relative_to(root).parts):
                    yield str(file.relative_to(root)), file.read_bytes()
        else:
            yield from git_files(folder, place, source.paths)


def json_strings(value: object, keys: tuple[str, ...], wanted: bool = False) -> Iterator[str]:
    """Every string under one of the keys."""
    if isinstance(value, str):
        if wanted:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from json_strings(item, keys, wanted)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from json_strings(item, keys, wanted=key in keys)


def from_json(text: str, keys: tuple[str, ...]) -> str:
    """The strings under the keys of a JSON document, or of one a line."""
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [json.loads(line) for line in text.splitlines() if line.strip()]
    return "\n".join(json_strings(documents, keys))


def from_notebook(text: str, keys: tuple[str, ...]) -> str:
    """The cells of a notebook; other text as it is."""
    if not text.lstrip().startswith("{"):
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def from_tei(text: str, keys: tuple[str, ...]) -> str:
    """The paragraphs, verses and headings of a book in XML, one a line."""
    body = re.split(r"<(?:body|content)\b", text, maxsplit=1)[-1]
    parts = re.split(r"</(?:p|l|head|seg|para|title|item|caption)>", body.partition(">")[2])
    lines = (" ".join(html.unescape(re.sub(r"<[^>]*>", "", part)).split()) for part in parts)
    return "\n".join(line for line in lines if line)


def from_po(text: str, keys: tuple[str, ...]) -> str:
    """The originals ("msgid") or the translations ("msgstr") of a file of gettext."""
    entries = re.findall(rf'^{keys[0]} ((?:"(?:[^"\\]|\\.)*"\n?)+)', text, re.MULTILINE)[1:]
    joined = ("".join(re.findall(r'"((?:[^"\\]|\\.)*)"', entry)) for entry in entries)
    escapes = {r"\n": "\n", r"\"": '"', r"\\": "\\", r"\t": "\t"}
    return "\n".join(re.sub(r"\\.", lambda found: escapes.get(found[0], found[0]), entry) for entry in joined)


def from_ud(text: str, keys: tuple[str, ...]) -> str:
    """The sentences of a treebank."""
    return "\n".join(re.findall(r"^# text = (.*)$", text, re.MULTILINE))


def from_json_or_ud(text: str, keys: tuple[str, ...]) -> str:
    """Either."""
    return from_json(text, keys) if text.startswith("{") else from_ud(text, keys)


def from_aozora(text: str, keys: tuple[str, ...]) -> str:
    """A book of Aozora Bunko without its notes and the readings beside its characters."""
    parts = re.split(r"^-{40,}\s*$", text, flags=re.MULTILINE)
    body = re.split(r"^底本：", parts[-1], flags=re.MULTILINE)[0]
    return re.sub(r"《[^》]*》|［＃[^］]*］|｜", "", body)


READERS: dict[str, Callable[[str, tuple[str, ...]], str]] = {
    "text": lambda text, keys: text,
    "json": from_json,
    "notebook": from_notebook,
    "tei": from_tei,
    "po": from_po,
    "ud": from_ud,
    "json-or-ud": from_json_or_ud,
    "aozora": from_aozora,
}


# ---- cleaning -------------------------------------------------------------------------------------------------------

JUNK = re.compile(
    r"[\w.+-]@[\w-]+\.\w"  # an e-mail address
    r"|[0-9a-fA-F]{32}|[A-Za-z0-9+/_-]{60}"  # a checksum, a key, data in base 64
    r"|[!-~]{100}"
    r"|[\0\x7f\ufffd]"
)


BLANK_LINES = re.compile(rb"\n(?:[ \t]*\n){3,}")
SHORTEST = 30  # bytes of a line that is looked at; shorter ones stay as they are
STEREOTYPE_LINES = 50


def digest(line: bytes) -> bytes:
    """What is kept of a line to know it again."""
    return hashlib.blake2b(line, digest_size=8).digest()


class Cleaner:
    """Leaves out junk, and what came before."""

    def __init__(self) -> None:
        """Knows the lines of the test data."""
        self.seen: set[bytes] = set()
        self.times = bytearray(1 << 26)  # how many lines began or ended so, by 26 bits of a checksum
        self.tested: set[bytes] = set()
        for file in sorted((DATA / "corpus").glob("*.txt")):
            lines = map(bytes.strip, file.read_bytes().split(b"\n"))
            self.tested.update(digest(line) for line in lines if len(line) >= SHORTEST)

    def clean(self, text: str) -> bytes:
        """The lines that stay, with two blank ones at most behind each other."""
        kept = (line for line in text.replace("\r\n", "\n").split("\n") if not JUNK.search(line))
        lines = (line.encode("utf-8", "replace") for line in kept)
        joined = b"".join(line + b"\n" for line in lines if self._stays(line.strip()))
        return BLANK_LINES.sub(b"\n\n\n", joined)

    def _stays(self, line: bytes) -> bool:
        if len(line) < SHORTEST:
            return True
        known = digest(line)
        if known in self.tested or known in self.seen or self._is_stereotyped(line):
            return False
        self.seen.add(known)
        return True

    def _is_stereotyped(self, line: bytes) -> bool:
        head, tail = zlib.crc32(line[:SHORTEST]) >> 6, zlib.crc32(line[-SHORTEST:], 1) >> 6
        if max(self.times[head], self.times[tail]) >= STEREOTYPE_LINES:
            return True
        self.times[head] += 1
        self.times[tail] += 1
        return False


def decoded(contents: bytes, kind: str) -> str | None:
    """The file's text; None where its encoding is another."""
    try:
        return contents.decode("cp932" if kind == "aozora" else "utf-8-sig")
    except UnicodeDecodeError:
        return None


def texts_of(source: Source, folder: Path, cleaner: Cleaner) -> Iterator[bytes]:
    """The clean text of a source, a file at a time, until there is as much as its cap says."""
    taken: dict[tuple[str | None, ...], int] = defaultdict(int)
    for name, contents in files_of(source, folder):
        found = source.paths.match(name) if not source.places[0].startswith("data:") else None
        part = found.groups()[:1] if found and source.group == "many" else ()
        if taken[part] >= source.cap or (text := decoded(contents, source.kind)) is None:
            continue
        try:
            text = READERS[source.kind](text, source.keys).replace("<|endoftext|>", "")
        except (KeyError, ValueError):
            continue
        clean = cleaner.clean(text)
        rest = source.cap - taken[part]
        if len(clean) > rest:
            clean = clean[: clean.find(b"\n", rest) + 1]
        taken[part] += len(clean)
        yield clean


def pieces_of(texts: Iterable[bytes]) -> Iterator[bytes]:
    """The text in pieces that end at the first line's end after 16,384 bytes."""
    piece = b""
    for text in texts:
        for line in text.splitlines(keepends=True):
            piece += line
            if len(piece) >= 16_384:
                yield piece
                piece = b""
    if piece:
        yield piece


def is_held_out(piece: bytes) -> bool:
    """Whether the piece is for measuring."""
    return int.from_bytes(hashlib.sha256(piece).digest(), "big") % 20 == 0


# ---- the steps ------------------------------------------------------------------------------------------------------


def step_sources(options: argparse.Namespace) -> None:
    """Prints the commands that fetch the repositories."""
    places = {place for source in sources() for place in source.places if "@" in place}
    for repository, commit in sorted(place.split("@") for place in places):
        folder = repository.replace("/", "+")
        print(f"git clone --bare https://github.com/{repository} {folder}  # {commit}")


def step_prepare(options: argparse.Namespace) -> None:
    """Writes the text to train on and the text held out."""
    cleaner = Cleaner()
    for kind in ("train", "held"):
        (options.work / kind).mkdir(parents=True, exist_ok=True)
    for source in sources():
        began = time.perf_counter()
        sizes = {"train": 0, "held": 0}
        with (
            open(options.work / "train" / f"{source.name}.txt", "wb") as train,
            open(options.work / "held" / f"{source.name}.txt", "wb") as held,
        ):
            for piece in pieces_of(texts_of(source, options.repositories, cleaner)):
                kind, file = ("held", held) if is_held_out(piece) else ("train", train)
                file.write(piece)
                sizes[kind] += len(piece)
        print(
            f"{source.name:24} {sizes['train']:>12,} {sizes['held']:>10,}  {time.perf_counter() - began:.1f} s",
            flush=True,
        )


def counts_of(work: Path) -> PretokenCounts:
    """The counts of the text to train on, each source as often as it weighs."""
    counts = PretokenCounts(PATTERN)
    entries = []
    for source in sources():
        part = PretokenCounts(PATTERN)
        part.add_file(work / "train" / f"{source.name}.txt")
        entries += [entry | {"file": f"{source.name}.txt", "weight": source.weight} for entry in part.sources]
        for _ in range(source.weight):
            counts.merge(part)
    counts.sources = entries
    return counts


def step_train(options: argparse.Namespace) -> None:
    """Writes the vocabularies."""
    began = time.perf_counter()
    counts = counts_of(options.work)
    print(f"{counts}, {counts.bytes:,} bytes, counted in {time.perf_counter() - began:.1f} s")
    for name, size in SIZES.items():
        began = time.perf_counter()
        tok = bpetok.train(
            counts,
            size - len(SPECIAL_TOKENS),
            pattern=PATTERN,
            special_tokens=SPECIAL_TOKENS,
            max_token_bytes=MAX_TOKEN_BYTES,
            name=name,
        )
        path = options.vocab / f"{name}.bpetok"
        tok.save(path)
        contents = path.read_bytes()
        seconds = time.perf_counter() - began
        print(f"{path.name}: {len(contents):,} bytes, sha256 {hashlib.sha256(contents).hexdigest()}, {seconds:.1f} s")


def step_look(options: argparse.Namespace) -> None:
    """Prints the longest tokens and the last merges."""
    for name in SIZES:
        tokens = [token for token, _ in sorted(load(name, options).vocab.ranks.items(), key=lambda item: item[1])]
        longest = sorted(tokens, key=len, reverse=True)[:150]
        print(f"{name}, the longest:", *(token.decode("utf-8", "replace") for token in longest), sep=" | ")
        print(f"{name}, the last:", *(token.decode("utf-8", "replace") for token in tokens[-500:]), sep=" | ")


def load(name: str, options: argparse.Namespace) -> bpetok.Tokenizer:
    """One of ours, from where it was written, or a peer."""
    return bpetok.get_encoding(name) if name in PEERS else bpetok.load(options.vocab / f"{name}.bpetok")


def row(label: str, texts: list[bytes], toks: list[bpetok.Tokenizer]) -> str:
    """A row of the table: bytes per token of each tokenizer."""
    size = sum(map(len, texts))
    cells = (f"{size / sum(len(tok.encode_ordinary(text)) for text in texts):.2f}" for tok in toks)
    return f"| {label} | {size:,} | " + " | ".join(cells) + " |"


def step_measure(options: argparse.Namespace) -> None:
    """Prints the tables of `vocab/README.md`."""
    names = [*SIZES, *PEERS]
    toks = [load(name, options) for name in names]
    head = "| {} | bytes | " + " | ".join(names) + " |\n|---|---:|" + "---:|" * len(names)
    print("| source | kind | from | licence | bytes | sha256 | weight |\n|---|---|---|---|---:|---|---:|")
    for source in sources():
        contents = (options.work / "train" / f"{source.name}.txt").read_bytes()
        places = "<br>".join(place[:-28] if "@" in place else place for place in source.places)
        digest_ = hashlib.sha256(contents).hexdigest()
        cells = (source.name, source.group, places, source.licence, f"{len(contents):,}", f"`{digest_}`")
        print("|", " | ".join(cells), "|", source.weight, "|")
    held: dict[str, list[bytes]] = defaultdict(list)
    for source in sources():
        contents = (options.work / "held" / f"{source.name}.txt").read_bytes()
        held[source.name if source.group == "many" else source.group].append(contents)
    print("\n" + head.format("held out"))
    for group, texts in held.items():
        print(row(group, texts, toks))
    print("\n" + head.format("test data"))
    for file in sorted((DATA / "corpus").glob("*.txt")):
        print(row(file.name, [file.read_bytes()], toks))


STEPS = {
    "sources": step_sources,
    "prepare": step_prepare,
    "train": step_train,
    "measure": step_measure,
    "look": step_look,
}


def main() -> None:
    """Runs a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--work", type=Path, default=Path("build/vocab"), help="folder of the prepared text")
    parser.add_argument("--repositories", type=Path, default=Path("build/repositories"), help="folder of the clones")
    parser.add_argument("--vocab", type=Path, default=VOCAB, help="folder of the vocabularies")
    options = parser.parse_args()
    STEPS[options.step](options)


if __name__ == "__main__":
    main()
