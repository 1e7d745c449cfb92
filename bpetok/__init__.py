"""bpetok: byte-level BPE. Train, encode, decode, count, shard; exact against tiktoken.

The road, and where each stage lives:

| stage | module |
|---|---|
| text -> pretokens | `bpetok.patterns`, the core |
| pretokens -> vocab | `bpetok.counts`, `bpetok.training`, `bpetok.vocab` |
| text -> ids -> text | `bpetok.tokenizer`, the core |
| vocabularies by name, tokenizer files | `bpetok.encodings`, `bpetok.formats` |
| documents -> shards | `bpetok.sources`, `bpetok.shards` |
| all of it in plain Python | `bpetok.reference` |

>>> import bpetok
>>> tok = bpetok.train("to be or not to be", vocab_size=260, pattern="gpt4", special_tokens=["<|endoftext|>"])
>>> tok.decode(tok.encode("not to be"))
'not to be'
"""

try:
    from bpetok import _core
except ImportError as error:
    raise ImportError(
        f"bpetok's compiled core is missing: this is a checkout that was not installed ({error}).\n"
        "hint: run `pip install -e .` in the checkout, or leave it and use the installed package"
    ) from None

from bpetok.counts import PretokenCounts
from bpetok.encodings import (
    encoding_for_model,
    encoding_name_for_model,
    get_encoding,
    list_encoding_names,
)
from bpetok.errors import (
    BpetokError,
    CorruptionError,
    DataError,
    EncodingError,
    FormatError,
    IdRangeError,
    IncompatibleError,
    MemoryLimitError,
    MissingExtraError,
    PatternError,
    SpecialTokenError,
    UnavailableError,
    UnknownIdError,
    UnknownTokenError,
    VocabError,
    WorkerError,
)
from bpetok.tokenizer import Encoding, Tokenizer, load
from bpetok.training import extend, train
from bpetok.vocab import Vocab

__version__: str = _core.version

__all__ = [  # noqa: RUF022  in the order of the road
    "PretokenCounts",
    "train",
    "extend",
    "Vocab",
    "Tokenizer",
    "Encoding",
    "load",
    "get_encoding",
    "encoding_for_model",
    "encoding_name_for_model",
    "list_encoding_names",
    "BpetokError",
    "CorruptionError",
    "DataError",
    "EncodingError",
    "FormatError",
    "IdRangeError",
    "IncompatibleError",
    "MemoryLimitError",
    "MissingExtraError",
    "PatternError",
    "SpecialTokenError",
    "UnavailableError",
    "UnknownIdError",
    "UnknownTokenError",
    "VocabError",
    "WorkerError",
    "__version__",
]
