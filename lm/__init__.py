"""lm: small language models on bpetok's shards, from a bigram to GPT-2, on one training loop.

The package's map, in the order of the road (shards -> batches -> model -> loss -> checkpoint -> samples):

    errors       what lm raises; one tree under bpetok's
    config       a run's settings, read strictly from TOML; `configs/` has ready ones
    texts        names.txt and tiny Shakespeare, found or downloaded
    alphabet     the characters of a text, or the bytes, as a vocabulary
    examples     lines of text -> the lectures' windows, rows and splits
    data         what a run's `[data]` names, opened and checked
    batches      shards or text -> seeded, resumable batches; every target exactly once an epoch, or the lectures' draws
    prefetch     batches made ahead by a thread
    models       the ladder: `contract` (the one contract, the shape legend), then one rung a file
    loss         nats per token, bits per byte
    optim        AdamW with its decay groups; plain gradient descent
    schedule     the learning rate as a function of the step
    parallel     device, dtype, threads
    evaluate     the loss on fixed batches
    diagnostics  what a step looks like inside: activations, gradients, updates
    checkpoint   folders that are whole or not there; no pickle
    run          what lies in a run's folder, and its log
    train        the loop
    find_lr      a short run in search of a learning rate
    sample       drawing ids; reading a run back
    predictions  what a model expects of each next token
    huggingface  GPT-2's weights to and from Hugging Face
    report       pictures of a run, and its page
    reportpage   that page, part by part
    curves       what a run's log shows, as charts
    charts       curves and histograms as SVG
    quickstart   the whole road in one call

Beside the road, the rungs that no training loop of torch runs, and the walk up all of them:

    autograd     the scalar engine: Value, Neuron, Layer, MLP
    drawing      its graph, as Graphviz's dot and as SVG
    moons        the engine's demo: two moons told apart
    microgpt     a GPT on the scalar engine
    ngram        bigram and trigram by counting, and the bigram as one layer of weights
    backward     gradients by hand, part by part
    by_hand      the lecture's network trained by them
    by_hand_gpt2 all of GPT-2's gradients
    fast         the MLP, BatchNorm and WaveNet rungs by hand and without torch's overhead, many seeds at once
    ladder       every rung trained and held against its published figure
    figures      what they came to, as a table and as a file

Importing `lm` is light: torch comes in with the module that needs it (`from lm.train import train`, or `lm.train`).
"""

from importlib import import_module
from types import ModuleType

__all__ = [
    "alphabet",
    "autograd",
    "backward",
    "batches",
    "by_hand",
    "by_hand_gpt2",
    "charts",
    "checkpoint",
    "config",
    "curves",
    "data",
    "diagnostics",
    "drawing",
    "errors",
    "evaluate",
    "examples",
    "fast",
    "figures",
    "find_lr",
    "huggingface",
    "ladder",
    "loss",
    "microgpt",
    "models",
    "moons",
    "ngram",
    "optim",
    "parallel",
    "predictions",
    "prefetch",
    "quickstart",
    "report",
    "reportpage",
    "run",
    "sample",
    "schedule",
    "texts",
    "train",
]


def __getattr__(name: str) -> ModuleType:
    """The module of that name, imported when it is first asked for."""
    if name in __all__:
        return import_module(f"lm.{name}")
    raise AttributeError(f"module 'lm' has no attribute {name!r}")
