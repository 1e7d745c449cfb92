"""lm: small language models on bpetok's shards, from a bigram to GPT-2, on one training loop.

The package's map, in the order of the road (shards -> batches -> model -> loss -> checkpoint -> samples):

    errors       what lm raises; one tree under bpetok's
    config       a run's settings, read strictly from TOML; `configs/` has ready ones
    batches      shards -> seeded, resumable batches; every target exactly once an epoch
    models       the ladder: `contract` (the one contract, the shape legend), `bigram`, `gpt2`
    loss         nats per token, bits per byte
    optim        AdamW with its decay groups
    schedule     the learning rate as a function of the step
    parallel     device and dtype
    evaluate     the loss on fixed batches
    checkpoint   folders that are whole or not there; no pickle
    run          what lies in a run's folder, and its log
    train        the loop
    sample       drawing ids; reading a run back
    huggingface  GPT-2's weights to and from Hugging Face
    report       pictures of a run
    quickstart   the whole road in one call

Importing `lm` is light: torch comes in with the module that needs it (`from lm.train import train`).
"""

__all__ = [
    "batches",
    "checkpoint",
    "config",
    "errors",
    "evaluate",
    "huggingface",
    "loss",
    "models",
    "optim",
    "parallel",
    "quickstart",
    "report",
    "run",
    "sample",
    "schedule",
    "train",
]
