"""Commands about what vocabularies are: info, merges, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.manners import (
    TextFile,
    json_option,
    open_text,
    open_tokenizer,
    print_facts,
    print_json,
    quiet_option,
    text_of_files,
    tokenizer_argument,
    tokenizer_names,
    tokenizer_option,
)

if TYPE_CHECKING:
    from bpetok import Tokenizer
    from bpetok.report import Comparison, Derivation, Report, ScriptUse, TextUse

_SHOWN = 8


# ---- info --------------------------------------------------------------------------------------------------------


@click.command(short_help="What a tokenizer, or a folder of shards, is.")
@click.argument("what", metavar="FILE|NAME|FOLDER", shell_complete=tokenizer_names)
@click.option("--text", "text_file", type=TextFile(), metavar="FILE", help="Measure it on this text, by script.")
@json_option
def info(what: str, text_file: str | None, as_json: bool) -> None:
    """Print what a tokenizer file, a vocabulary's name or a folder of shards stands for.

    \b
    Examples:
      bpetok info my.bpetok
      bpetok info gpt2 --text text.txt
      bpetok info gpt2 --json
      bpetok info shards/
    """
    from bpetok.shards.reader import is_folder

    if is_folder(what):
        if text_file is not None:
            raise click.UsageError("--text: measures a tokenizer, and no folder of shards")
        about, use = _about_shards(what), None
    else:
        about, use = _about_tokenizer(open_tokenizer(what), text_file)
    if as_json:
        print_json(about)
        return
    about.get("text", {}).pop("scripts", None)
    if "skipped_shown" in about:
        about["skipped_shown"] = _first_of(about["skipped_shown"])
    if "special_tokens" in about:
        about["special_tokens"] = _first_of([f"{text} {i}" for text, i in about["special_tokens"].items()])
        about["longest_tokens"] = [f"'{one['token']}' ({one['bytes']} bytes)" for one in about["longest_tokens"]]
    print_facts(about)
    if use is not None:
        _print_scripts(use)


def _about_tokenizer(tok: Tokenizer, text_file: str | None) -> tuple[dict[str, Any], TextUse | None]:
    from bpetok.report import longest, measure_text, readable

    vocab = tok.vocab
    about = {
        "name": tok.name,
        "ids": tok.n_vocab,
        "tokens": len(vocab.ranks),
        "unused_ids": tok.n_vocab - len(vocab.ranks) - len(set(vocab.special_tokens.values())),
        "special_tokens": dict(sorted(vocab.special_tokens.items(), key=lambda item: item[1])),
        "pattern": str(vocab.split),
        "unicode": vocab.split.unicode_version,
        "semantics": vocab.semantics,
        "ignore_merges": vocab.ignore_merges,
        "normalization": vocab.normalization,
        "fingerprint": tok.fingerprint,
        "longest_tokens": [
            {"token": readable(token), "id": vocab.ranks[token], "bytes": len(token)} for token in longest(vocab, 5)
        ],
        "provenance": dict(vocab.provenance),
    }
    use = None if text_file is None else measure_text(tok, text_of_files((text_file,)))
    if use is not None:
        about["text"] = {
            "bytes": use.bytes,
            "tokens": use.tokens,
            "bytes_per_token": use.bytes_per_token if use.tokens else None,
            "scripts": {one.script: _script(one) for one in use.scripts},
        }
    return about, use


def _script(use: ScriptUse) -> dict[str, Any]:
    about = use.to_dict()
    del about["script"]
    return about


def _about_shards(folder: str) -> dict[str, Any]:
    from bpetok import shards

    opened = shards.open(folder)
    manifest = opened.manifest
    about: dict[str, Any] = {
        name: {
            "files": len(split.shards),
            "ids": split.tokens,
            "documents": split.documents,
            "bytes_of_text": split.text_bytes,
            "bytes_per_token": split.text_bytes / split.tokens if split.tokens else None,
        }
        for name, split in opened.splits.items()
    }
    return about | {
        "bytes_of_files": opened.file_bytes,
        "tokenizer": manifest.tokenizer,
        "fingerprint": manifest.fingerprint,
        "vocab_size": manifest.vocab_size,
        "dtype": manifest.dtype,
        "end_of_text": manifest.end_of_text,
        "end_of_text_stands": f"{manifest.end_of_text_stands} each document",
        "arguments": dict(manifest.arguments),
        "sources": [{"name": source.name, "bytes": source.bytes} for source in manifest.sources],
        "skipped": manifest.skipped,
        "skipped_shown": list(manifest.skipped_shown),
    }


def _first_of(texts: list[str], how_many: int = _SHOWN) -> str:
    more = f" and {len(texts) - how_many:,} more" if len(texts) > how_many else ""
    return ", ".join(texts[:how_many]) + more or "none"


# ---- merges ------------------------------------------------------------------------------------------------------


@click.command(short_help="How a token came to be, as a tree.")
@tokenizer_option
@click.option("--id", "token_id", type=click.IntRange(min=0), help="The token's id, in place of its text.")
@json_option
@click.argument("token", required=False)
def merges(tokenizer: str, token_id: int | None, as_json: bool, token: str | None) -> None:
    """Show the merges that make a token: each tree's root is merged from the two below it, those of lower rank first.

    TOKEN is text, in which \\xHH is a byte, and \\n, \\r, \\t and \\\\ are what they are in Python. What is no single
    token is shown as the several that its bytes become, if nothing cuts them before that.

    \b
    Examples:
      bpetok merges ' lower' -t gpt2
      bpetok merges '\\xe4\\xb8\\xad' -t gpt2
      bpetok merges --id 262 -t gpt2 --json
    """
    from bpetok.report import derive, from_readable, readable

    if (token is None) == (token_id is None):
        raise click.UsageError("TOKEN or --id: give one of them")
    tok = open_tokenizer(tokenizer)
    data = tok.decode_single_token_bytes(token_id) if token_id is not None else from_readable(token or "")
    special = (
        tok.is_special_token(token_id)
        if token_id is not None
        else data.decode(errors="replace") in (tok.special_tokens_set)
    )
    trees = [] if special else derive(tok.vocab, data)
    is_token = special or data in tok.vocab.ranks
    about = {
        "token": readable(data),
        "id": tok.encode_single_token(data) if is_token else None,
        "special": special,
        "merged": len(trees) == 1,
        "trees": [tree.to_dict() for tree in trees],
    }
    if as_json:
        print_json(about)
        return
    if special:
        click.echo(f"'{readable(data)}' is a special token, id {about['id']}: no merge makes it")
    elif len(trees) > 1:
        what = f"is a token, id {about['id']}, that no merge makes" if is_token else "is no token"
        click.echo(f"'{readable(data)}' {what}; its bytes become these {len(trees)}:")
    for tree in trees:
        _print_tree(tree, "", "")


def _print_tree(node: Derivation, first: str, rest: str) -> None:
    from bpetok.report import readable

    rank = "" if node.rank in (None, node.id) else f", merge {node.rank}"
    click.echo(f"{first}'{readable(node.token)}' {node.id}{rank}")
    for part in node.parts:
        last = part is node.parts[-1]
        _print_tree(part, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


# ---- compare -----------------------------------------------------------------------------------------------------


@click.command(short_help="Where tokenizers cut a text differently.")
@click.argument("tokenizers", nargs=-1, required=True, metavar="FILE|NAME...", shell_complete=tokenizer_names)
@click.argument("text", type=TextFile(), metavar="TEXTFILE")
@click.option(
    "--semantics", is_flag=True, help="Also by the other way of merging: by list for ranks, by rank for lists."
)
@click.option("--show", type=click.IntRange(min=0), default=5, show_default=True, help="So many of the differences.")
@json_option
def compare(tokenizers: tuple[str, ...], text: str, semantics: bool, show: int, as_json: bool) -> None:
    """Print how many ids a text has in several tokenizers, and where they do not cut it alike.

    A difference is a span of text on whose borders all agree, and on nothing within. --semantics holds each
    tokenizer against itself with the other way of merging: where nothing differs, it may be taken from tiktoken to
    Hugging Face's libraries or back.

    \b
    Examples:
      bpetok compare gpt2 my.bpetok text.txt
      bpetok compare my.bpetok --semantics corpus.txt
    """
    from bpetok import Tokenizer, report

    toks = [open_tokenizer(name) for name in tokenizers]
    if semantics:
        toks += [Tokenizer(report.with_other_semantics(tok.vocab)) for tok in toks]
    if len(toks) < 2:
        raise click.UsageError("FILE|NAME: give two tokenizers or more, and the text last")
    with open_text(text) as file:
        data = file.read()
    compared = report.compare(toks, data, how_many=show)
    if as_json:
        print_json(_compared(toks, compared))
    else:
        _print_comparison([tok.name for tok in toks], compared)


def _compared(toks: list[Tokenizer], compared: Comparison) -> dict[str, Any]:
    from bpetok.report import readable

    return {
        "bytes": compared.bytes,
        "tokenizers": [
            {
                "name": tok.name,
                "fingerprint": tok.fingerprint,
                "tokens": tokens,
                "bytes_per_token": round(compared.bytes / tokens, 4) if tokens else None,
            }
            for tok, tokens in zip(toks, compared.tokens, strict=True)
        ],
        "different_spans": compared.spans,
        "different_bytes": compared.span_bytes,
        "first": [
            {"byte": one.byte, "line": one.line, "cuts": [[readable(token) for token in cut] for cut in one.cuts]}
            for one in compared.first
        ],
    }


def _print_comparison(names: list[str], compared: Comparison) -> None:
    from bpetok.report import readable

    width = max(len("tokenizer"), *map(len, names))
    click.echo(f"{'tokenizer':<{width}}  {'tokens':>12}  bytes/token")
    for name, tokens in zip(names, compared.tokens, strict=True):
        ratio = f"{compared.bytes / tokens:.3f}" if tokens else "-"
        click.echo(f"{name:<{width}}  {tokens:>12,}  {ratio:>11}")
    if compared.spans == 0:
        click.echo("all cut the text alike")
        return
    share = compared.span_bytes / compared.bytes
    first = compared.first[0].byte if compared.first else None
    begins = "" if first is None else f", the first at byte {first:,}"
    click.echo(f"{compared.spans:,} spans differ, {share:.1%} of the text{begins}")
    for one in compared.first:
        click.echo(f"line {one.line:,}, byte {one.byte:,}")
        for name, cut in zip(names, one.cuts, strict=True):
            click.echo(f"  {name:<{width}}  {'│'.join(map(readable, cut))}")


# ---- report ------------------------------------------------------------------------------------------------------


@click.command(short_help="What a vocabulary holds, and what it does to a text.")
@tokenizer_argument
@click.argument("files", nargs=-1, type=TextFile(), metavar="TEXTFILE...")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots, too.")
@json_option
@quiet_option
def report(tokenizer: str, files: tuple[str, ...], html: Path | None, as_json: bool, quiet: bool) -> None:
    """Print measures of a vocabulary on a text: compression, tokens per word by script, how evenly it is used; tokens
    that the text never needs, that no merge makes, and that are the same but for a blank or case.

    The page is one file that asks for nothing from elsewhere.

    \b
    Examples:
      bpetok report my.bpetok corpus.txt
      bpetok report gpt2 corpus.txt text.txt --html report.html
      bpetok report my.bpetok corpus.txt --json
    """
    from bpetok.report import measure

    measured = measure(open_tokenizer(tokenizer), text_of_files(files, quiet))
    if html is not None:
        from bpetok.files import write_atomically
        from bpetok.reportpage import page

        write_atomically(html, page(measured).encode())
    if as_json:
        print_json(measured.to_dict())
    else:
        _print_report(measured)


def _print_report(measured: Report) -> None:
    from bpetok.report import readable

    holds, use, never = measured.holds, measured.use, measured.never_used
    several = holds.tokens - 256
    print_facts(
        {
            "tokenizer": measured.vocab.name,
            "text": f"{use.bytes:,} bytes, {use.tokens:,} tokens",
            "bytes per token": round(use.bytes_per_token, 3),
            "tokens per word": round(use.fertility, 3),
            "Rényi efficiency": round(use.renyi_efficiency(holds.tokens), 3),
            "never used": f"{len(never):,} of {several:,} tokens: {_quoted(never)}",
            "unreachable": f"{len(holds.unreachable):,}: {_quoted(holds.unreachable)}",
            "partial characters": f"{holds.partial:,} tokens",
            "near duplicates": f"{len(holds.near_duplicates):,} groups, {holds.in_near_duplicates:,} tokens too many: "
            + _first_of([" ".join(f"'{readable(token)}'" for token in group) for group in holds.near_duplicates], 2),
            "longest": _quoted(holds.longest, 5),
            "most used": _first_of([f"'{readable(token)}' {n:,}" for token, n in measured.most_used(_SHOWN)]),
        }
    )
    _print_scripts(use)


def _quoted(tokens: tuple[bytes, ...] | list[bytes], how_many: int = _SHOWN) -> str:
    from bpetok.report import readable

    shown = ", ".join(f"'{readable(token)}'" for token in tokens[:how_many])
    return shown + ", …" * (len(tokens) > how_many) or "none"


def _print_scripts(use: TextUse) -> None:
    click.echo(f"\n{'script':<14} {'tokens':>12} {'bytes/token':>12} {'tokens/word':>12} {'tokens/char':>12}")
    for one in use.scripts:
        fertility = "-" if one.fertility is None else f"{one.fertility:.3f}"
        ratios = f"{one.bytes_per_token:>12.3f} {fertility:>12} {one.tokens_per_character:>12.3f}"
        click.echo(f"{one.script:<14} {one.tokens:>12,} {ratios}")
