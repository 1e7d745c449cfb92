r"""The probe: texts that show where two tokenizers differ, and the proof that a written file gives our ids.

Whatever writes a tokenizer for another library writes it with `proven`, and calls `prove` on what that library makes of
it before the file gets its name:

```
with probe.proven(path) as written:
    written.write_bytes(contents)
    probe.prove(vocab, library.load(written).encode, f"{path} in the library")
```

The probe holds no letter that Unicode has had for less than ten years, since the libraries' tables differ in age.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bpetok.errors import FormatError
from bpetok.files import sync_file, sync_folder

if TYPE_CHECKING:
    from bpetok.vocab import Vocab

_WORDS = (
    "The quick brown fox jumps over the lazy dog. Hello, world! HELLO world hELLO camelCaseWords snake_case_words",
    "Dès Noël où un zéphyr haï me vêt de glaçons würmiens. Größe, Straße, ẞ; İstanbul ılık; ŒUVRE œuvre; naïve",
    "Съешь же ещё этих мягких французских булок. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ћирилица і українська ґанок",
    "我能吞下玻璃而不伤身体。日本語のテキスト、カタカナとひらがな。한국어 텍스트입니다. 漢字かな交じり文12",
    "עברית בלי ניקוד וְעִם נִקּוּד. نص عربي مع تَشْكِيل ١٢٣٤٥. हिन्दी पाठ में मात्राएँ १२३. ภาษาไทยไม่มีช่องว่าง ๑๒๓",
    "ქართული მხედრული. Հայերեն. አማርኛ. বাংলা লেখা ১২৩. தமிழ் எழுத்து. ខ្មែរ ១២៣. ꙮ ꜩ ǅ ǈ ʰa aʰ Aʰb ªº",
)
_CONTRACTIONS = (
    "I'm I'M you're YOU'RE we've WE'VE he'll HE'LL she'd SHE'D it's IT'S don't DON'T 'tis 'Twas rock'n'roll",
    "'s 'S 'sa 'Sa's's's''s 'ſ 'lL 'Re 'vE 'll'll x'sx 's's y's12 's\n's z'ſz l'été d'Or ‘s ’s can’t",
)
_NUMBERS = (
    "0 12 123 1234 12345 123456 1234567 1234567890123 3.14159 -1e-9 0x7FFF 1,234,567.89 2024-02-29T23:59:60Z",
    "a1b22c333d4444 ½ ² ³¹ Ⅷ ⅷ ①② ٣٤٥٦٧ ๑๒๓๔ 1 2 12 3 ١23 x²y 一二三四",
)
_BLANKS = (
    " ",
    "  ",
    "   a",
    "a   ",
    "a  b    c     d",
    "\n",
    "\n\n\n",
    "a\n\n\nb",
    "a \n \n b",
    "\r\n\r\na\r\n",
    "a\rb\r\rc",
    "\t\t\tif x:\n\t\t    y\n",
    "tabs\t\tand\t spaces \t mixed\t",
    "line end blanks   \n   and starts",
    "a  \n  ",
    "b\n\n \n\t ",
    "\u00a0x\u00a0\u00a0y \u2003z\u3000w\u3000\u3000v \u2028p\u2029q\u0085r\u0085\u0085s\x0bt\x0cu\x1cv\x1fw",
    "zero\u200bwidth\u200c\u200djoiners\ufeff and \u2060words\u00adsoft",
    "a" + " " * 40 + "b" + "\n" * 17 + "c" + "\t" * 9 + " " * 83,
)
_SIGNS = (
    "!!! ... ?! --- === /* */ // ## @user #tag $5.00 100% a&b <b>x</b> [1](2){3} `code` ~~~ ^_^ \\n \\\\ | ;; :: ->",
    'print(f"{x!r:>10}")\nfor i in range(10):  # comment\n    total += data[i]**2 // 3\n\n\nclass A(B):\n    pass\n',
    "#include <stdio.h>\nint main(void) {\n\treturn a->b && !c ? 0x1F : ~d;\n}\n",
    'SELECT * FROM t WHERE a <> \'it\'\'s\';\n{"key": [1, 2.5, null], "k2": "\\u00e9"}\nhttps://example.org/a?b=c&d=%20#e\n',
    "«guillemets» “quotes” ‘single’ „low“ — – … • § ¶ © ® ™ € £ ¥ ₹ ± × ÷ ≠ ≤ ∞ ∑ ∂ √ ← → ⇒ ■ ◆ ★ ☃ ♥ 、。「」！？",
    "!a .b ?c /d _e -f +g =h \"i 'j (k [l {m ¿n ¡o €p ★q \u0301r \u200ds 🙂t \n!u \r\n/v  !w\n//\n/\n !/\n",
)
_MARKS = (
    "e\u0301 n\u0303o a\u0308\u0301\u0323 \u0301start x\u20ddy q\u0307\u0323 i\u0307 \u212b \u2126 \ufb01 \ufb00",
    "\u1100\u1161\u11a8 \ud55c\u11a8 \u0644\u0651\u0650 \u0915\u094d\u0937 \u0e01\u0e33 \u0b95\u0bcd",
    "🙂 🙂🙂 👨\u200d👩\u200d👧\u200d👦 👍🏽 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
    "\u2764\ufe0f 1\ufe0f\u20e3 \U0001f9d1\u200d\U0001f4bbcode 🎉! a🎉b",
    "\x00\x01\x02\x07\x08\x0e\x1b[31m\x7f\x80\x9f \ufffd \uffff \U0010ffff \ue000 𝒜𝓫𝟙𝟚 𐍈 𒀀 𝄞 🀄",
)
_SPECIAL_LOOKING = (
    "<|endoftext|> <|im_start|>user\nhi<|im_end|> <|eot_id|> [INST] </s> <s> <unk> <pad> <|fim_prefix|> <｜User｜>",
    "<|endoftext <| |> <||> <|endoftext|><|endoftext|>x<|endoftext|>\n",
)
TEXTS = (*_WORDS, *_CONTRACTIONS, *_NUMBERS, *_BLANKS, *_SIGNS, *_MARKS, *_SPECIAL_LOOKING)
"""What every proof encodes, text by text; a proof adds texts made of the vocabulary's own tokens."""


def texts(vocab: Vocab) -> list[str]:
    """The probe for one vocabulary: `TEXTS`, all of them as one, its special tokens, and words made of its tokens."""
    chosen = random.Random("bpetok probe")
    readable = [
        token.decode() for token in sorted(vocab.ranks, key=lambda token: (len(token), token)) if _is_text(token)
    ]
    tokens = chosen.sample(readable, min(len(readable), 1500))
    words = ["".join(chosen.sample(tokens, min(len(tokens), size))) for size in (2, 3, 5, 8) * 150]
    specials = sorted(vocab.special_tokens)
    some = chosen.sample(specials, min(len(specials), 200))
    around = ["".join(chain.from_iterable((special, between) for special in some)) for between in ("", " ", "a", "\n")]
    return [*TEXTS, "\n".join(TEXTS), "".join(reversed(TEXTS)), *some, *around, *tokens, *words]


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def prove(
    vocab: Vocab,
    encode: Callable[[str], Sequence[int]],
    where: str,
    *,
    allowed_special: Literal["all"] | frozenset[str] = frozenset(),
) -> None:
    """Makes sure that another encoder gives each text of the probe the ids that the vocabulary gives it here.

    Args:
        vocab: the vocabulary.
        encode: a text to ids, in the other library.
        where: what is proven, to begin the error's message: the file and the library.
        allowed_special: "all" if the other encoder makes special tokens in the text their ids; none unless told,
            which is: takes them as text.

    Raises:
        FormatError: the ids of a text differ; names it, and the first id that does.
    """
    from bpetok.tokenizer import Tokenizer

    ours = Tokenizer(vocab)

    def ids(text: str) -> list[int]:
        return ours.encode(text, allowed_special=allowed_special, disallowed_special=())

    for text in texts(vocab):
        expected, got = ids(text), list(encode(text))
        if expected != got:
            i = next((i for i, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]), -1)
            raise FormatError(
                f"{where}: the ids of {_near(ours.decode_bytes(expected[:i]), text)!a} must be those of bpetok, "
                f"{expected[i:][:5]}, got {got[i:][:5]}",
                hint="the format cannot be proven to hold this vocabulary; nothing was written",
            )


def _near(before: bytes, text: str) -> str:
    """The part of a text that begins where these bytes of it end, or the whole of a short one."""
    start = len(before.decode("utf-8", "ignore"))
    return text if len(text) <= 40 else text[max(0, start - 5) : start + 35]


@contextmanager
def proven(path: Path) -> Iterator[Path]:
    """A place for a file, or a folder, of the same name in a hidden folder beside `path`.

    When the block ends well, what was written there gets its final name, as `bpetok.files` would; when it raises,
    nothing is left. A folder's files get their names one by one, into the folder that is there or a new one.
    """
    hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.absolute().parent))
    try:
        written = hidden / path.name
        yield written
        _publish(written, path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _publish(written: Path, path: Path) -> None:
    if written.is_dir():
        path.mkdir(exist_ok=True)
        for one in sorted(written.iterdir()):
            _publish(one, path / one.name)
    else:
        sync_file(written)
        os.replace(written, path)
    sync_folder(path.parent)
