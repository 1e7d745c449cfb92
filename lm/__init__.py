"""lm: small language models on bpetok's shards, from a bigram to GPT-2, on one training loop.

The package's map, in the order of the road (shards -> batches -> model -> loss -> checkpoint -> samples):

    errors       what lm raises; one tree under bpetok's
    config       a run's settings, read strictly from TOML; `configs/` has ready ones, `recipes/` whole runs as scripts
    texts        names.txt and tiny Shakespeare, found or downloaded
    alphabet     the characters of a text, or the bytes, as a vocabulary
    examples     lines of text -> the lectures' windows, rows and splits
    data         what a run's `[data]` names, opened and checked
    batches      shards or text -> seeded, resumable batches; every target exactly once an epoch, or the lectures' draws
    prefetch     batches made ahead by a thread
    models       the ladder: `contract` (the one contract, the shape legend), `reading` (attention), `cache` (keys and
                 values kept), then one rung a file
    loss         nats per token, bits per byte; a model and its loss as one module
    linear_loss  head and loss in one, without all logits in memory
    optim        AdamW with its decay groups, Muon, plain gradient descent
    muon         Muon itself
    schedule     the learning rate as a function of the step
    parallel     device, dtype, threads
    world        the processes that torchrun starts: DDP, FSDP, what they agree on
    evaluate     the loss on fixed batches
    diagnostics  what a step looks like inside: activations, gradients, updates
    checkpoint   folders that are whole or not there; no pickle
    sharded      tensors in parts to and from one file
    run          what lies in a run's folder, and its log
    tensorboard  the log for TensorBoard
    events       what a run tells whoever watches
    stopping     Ctrl-C and SIGTERM
    opening      a run put together, or found again in a checkpoint
    train        the loop
    find_lr      a short run in search of a learning rate
    generate     drawing ids, for one prompt or many, through the cache
    decode       the same at the speed of a GPU
    sample       ids to text; reading a run back
    assessment   a run's model on a whole, named and hashed text
    stretches    how likely a model finds given continuations
    hellaswag    which of four endings it takes
    harness      lm-evaluation-harness on our models
    predictions  what a model expects of each next token
    huggingface  GPT-2's weights to and from Hugging Face
    gguf         GPT-2 and its tokenizer for llama.cpp
    export       a run as either
    estimate     what a run will take
    memory       its peak, counted before it is taken; what to lower when there is too little
    rehearsal    a step on made-up ids, which both of them watch
    flops        operations a token, MFU, tokens per second
    devices      the dense peaks of GPUs
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
    "assessment",
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
    "decode",
    "devices",
    "diagnostics",
    "drawing",
    "errors",
    "estimate",
    "evaluate",
    "events",
    "examples",
    "export",
    "fast",
    "figures",
    "find_lr",
    "flops",
    "generate",
    "gguf",
    "harness",
    "hellaswag",
    "huggingface",
    "ladder",
    "linear_loss",
    "loss",
    "memory",
    "microgpt",
    "models",
    "moons",
    "muon",
    "ngram",
    "opening",
    "optim",
    "parallel",
    "predictions",
    "prefetch",
    "quickstart",
    "rehearsal",
    "report",
    "reportpage",
    "run",
    "sample",
    "schedule",
    "sharded",
    "stopping",
    "stretches",
    "tensorboard",
    "texts",
    "train",
    "world",
]


def __getattr__(name: str) -> ModuleType:
    """The module of that name, imported when it is first asked for."""
    if name in __all__:
        return import_module(f"lm.{name}")
    raise AttributeError(f"module 'lm' has no attribute {name!r}")
