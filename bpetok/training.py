"""train: text -> Tokenizer.

The slow twin that defines the result is `BasicTokenizer.train` in `bpetok.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Literal, cast

from bpetok import _core
from bpetok.counts import PretokenCounts, batches
from bpetok.errors import DataError, VocabError
from bpetok.text import BYTE_LEVEL_ORDER, Text
from bpetok.tokenizer import Tokenizer
from bpetok.vocab import Vocab

Source = PretokenCounts | Path | Text | Iterable[Path | Text]
Progress = Callable[[str, int], object]
TieBreak = Literal["smallest", "huggingface"]

_BYTE_ORDERS = {"smallest": bytes(range(256)), "huggingface": BYTE_LEVEL_ORDER}


def train(
    source: Source,
    vocab_size: int,
    *,
    pattern: str | None = "gpt4",
    special_tokens: Iterable[str] = (),
    tie_break: TieBreak = "smallest",
    min_count: int = 1,
    field: str = "text",
    name: str = "bpetok",
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """Learns a vocabulary from text.

    Each step merges the pair of neighbours that occurs most often; of equal ones, that which `tie_break` names. The
    result depends on the text alone: not on its order, nor on how files are cut to read them.

    Args:
        source: one text or many: `str` and `bytes` are text, `pathlib.Path` names a text file (read in chunks) or a
            `.jsonl` file of one text a line; or counts that were made before.
        vocab_size: 256 bytes and the merges; the special tokens come on top. Fewer come out if no pair is left.
        pattern: how text is cut: a name of `bpetok.patterns`, a regular expression, or None. Counts have their own.
        special_tokens: texts of tokens that are never merged. They get the highest ids, in this order.
        tie_break: among pairs that occur equally often, "smallest" merges that with the smallest left id, then right id
            (as rustbpe); "huggingface" does so with bytes in the order of the byte-level alphabet (as the trainer of
            Hugging Face's tokenizers). `bpetok.reference` has minbpe's "first" too.
        min_count: a pair that occurs less often does not merge.
        field: where a `.jsonl` row has its text.
        name: what to call the vocabulary.
        num_threads: how many count the text, at most; None for as many as this process may use at once. It changes
            nothing in the result.
        progress: called now and then with a stage ("scan" or "merge") and how much of it was done since the last
            call (bytes, merges). An exception of its own stops the training.

    Raises:
        VocabError: `vocab_size` is under 256, or a special token is also a token that merges.
        DataError: the source holds no text, a row is not as it has to be, or an argument is out of range.
        PatternError: the pattern is unknown or does not compile.

    >>> tok = train("low lower lowest", vocab_size=259, pattern="gpt2")
    >>> [tok.decode([token_id]) for token_id in range(256, 259)]
    ['lo', 'low', ' low']
    """
    if vocab_size < 256:
        raise VocabError(f"train: vocab_size must be at least 256, one for each byte, got {vocab_size}")
    if isinstance(special_tokens, str):
        raise VocabError(f"train: special_tokens must be a list of texts, got the text {special_tokens!r}")
    if min_count < 1:
        raise DataError(f"train: min_count must be at least 1, got {min_count}")
    if tie_break not in _BYTE_ORDERS:
        raise DataError(f"train: tie_break must be one of {', '.join(_BYTE_ORDERS)}, got {tie_break!r}")
    report = progress or (lambda stage, amount: None)
    counts = source if isinstance(source, PretokenCounts) else _count(source, pattern, field, num_threads, report)
    if counts.total == 0:
        raise DataError("train: the source must hold text, got none")
    merges = _merge(counts, vocab_size - 256, min_count, _BYTE_ORDERS[tie_break], report)
    provenance = {
        "trained by": f"bpetok {_core.version}",
        "tie_break": tie_break,
        "min_count": min_count,
        "documents": counts.documents,
        "bytes": counts.bytes,
        "pretokens": counts.total,
        "distinct pretokens": len(counts),
    }
    vocab = Vocab.from_merges(
        merges, pattern=counts.split.regex, special_tokens=special_tokens, name=name, provenance=provenance
    )
    return Tokenizer(vocab)


def _count(
    source: Path | Text | Iterable[Path | Text],
    pattern: str | None,
    field: str,
    num_threads: int | None,
    report: Progress,
) -> PretokenCounts:
    counts = PretokenCounts(pattern)

    def on_progress(amount: int) -> None:
        report("scan", amount)

    documents = [source] if isinstance(source, Path | Text) else source
    for is_path, group in groupby(documents, key=lambda document: isinstance(document, Path)):
        if is_path:
            for path in cast(Iterable[Path], group):
                counts.add_file(path, field=field, num_threads=num_threads, progress=on_progress)
        else:
            for texts in batches(cast(Iterable[Text], group)):
                counts.add_texts(texts, num_threads=num_threads, progress=on_progress)
    return counts


def _merge(
    counts: PretokenCounts, merges: int, min_count: int, byte_order: bytes, report: Progress
) -> list[tuple[int, int]]:
    done = 0

    def on_progress(made: int) -> None:
        nonlocal done
        report("merge", made - done)
        done = made

    made = _core.train(counts.core, merges, min_count, on_progress, byte_order)
    return [(left, right) for left, right, _ in made]
