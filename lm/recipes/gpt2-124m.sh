#!/usr/bin/env bash
# GPT-2 124M from nothing to an evaluated, exported model: OpenAI's vocabulary, ten billion tokens of FineWeb-Edu,
# training on all GPUs of this machine, validation loss and HellaSwag, Hugging Face and GGUF files, samples, a page.
#
#   pip install "bpetok[lm,data]" gguf
#   bash "$(python -c 'import lm; print(lm.__path__[0])')/recipes/gpt2-124m.sh"
#
# It needs the network, 60 GB of disk, and a GPU of 80 GB (with less memory: SETS="--set batch.rows=16 --set
# batch.accumulation=32"; the result is the same). Run it again after a stop, and it goes on where it was.
#
#   OUT         where everything goes                          default: runs/<CONFIG>-recipe, of SMALL -recipe-small
#   CONFIG      a shipped configuration, or a file             default: 09-gpt2-124m; also 09-gpt2-124m-muon, 10-modern-124m
#   SHARDS      a folder of shards; made if it is not there    default: $OUT/shards
#   TOKENIZER   a tokenizer, as the shards have it             default: $OUT/tokenizer.bpetok, made of OpenAI's gpt2
#   SETS        more for lm train, for example "--set run.steps=5000"
#   HELLASWAG   "download", a file, or "none"                  default: download
#   SMALL=1     a walk of the same road in a minute, on the CPU, without a network: give it text files
#                 SMALL=1 bash gpt2-124m.sh my.txt
set -euo pipefail  # an array that may be empty is written ${x[@]+"${x[@]}"}: bash 3.2 of macOS wants it

SMALL=${SMALL:-0}
CONFIG=${CONFIG:-09-gpt2-124m}
small=""; if [ "$SMALL" = 1 ]; then small=-small; fi
OUT=${OUT:-runs/$(basename "$CONFIG" .toml)-recipe$small}
SHARDS=${SHARDS:-$OUT/shards}
TOKENIZER=${TOKENIZER:-$OUT/tokenizer.bpetok}
read -r -a sets <<<"${SETS:-}"
run=$OUT/run

stage() { printf '\n== %s\n' "$1" >&2; }

# Writes what a command prints to a file that is there when it is whole, and shows it.
keep() {
  local file=$1
  shift
  if [ ! -e "$file" ]; then
    "$@" >"$file.part"
    mv "$file.part" "$file"
  fi
  cat "$file"
}

mkdir -p "$OUT"
if [ "$SMALL" = 1 ]; then
  [ "$#" -gt 0 ] || { echo "gpt2-124m.sh: SMALL=1 must have text files, got none" >&2; exit 2; }
  HELLASWAG=${HELLASWAG:-none}
  hellaswag_items=(--limit 4)
  make_tokenizer=(bpetok train "$@" --vocab-size 400 --pattern gpt2 -o "$TOKENIZER" --quiet)
  source=("$@" --workers 1)
  train=(lm train)
  sets=(--set model.context=32 --set model.layers=2 --set model.heads=2 --set model.width=32 --set batch.rows=4
    --set batch.accumulation=2 --set run.steps=20 --set schedule.warmup_steps=5 --set run.eval_every=10
    --set run.eval_batches=2 --set run.checkpoint_every=10 --set run.compile=false --set run.dtype=float32
    --set run.device=cpu ${sets[@]+"${sets[@]}"})
else
  HELLASWAG=${HELLASWAG:-download}
  hellaswag_items=()
  make_tokenizer=(bpetok export gpt2 --to bpetok -o "$TOKENIZER")
  source=(--dataset HuggingFaceFW/fineweb-edu --config sample-10BT --split train)
  train=(torchrun --standalone --nproc-per-node=gpu -m lm train)
fi

stage "tokenizer: $TOKENIZER"
[ -e "$TOKENIZER" ] || "${make_tokenizer[@]}"

stage "shards: $SHARDS"
# A call that was stopped is gone on with by the same call; the manifest is written last.
[ -e "$SHARDS/manifest.json" ] || bpetok shard "${source[@]}" -t "$TOKENIZER" -o "$SHARDS"
bpetok info "$SHARDS"

stage "train: $run"
"${train[@]}" "$CONFIG" -o "$run" --resume auto \
  --set data.shards="$SHARDS" --set data.tokenizer="$TOKENIZER" ${sets[@]+"${sets[@]}"}

stage "evaluate"
keep "$OUT/validation.json" lm eval "$run" --json
if [ "$HELLASWAG" != none ]; then
  keep "$OUT/hellaswag.json" lm eval "$run" --hellaswag "$HELLASWAG" ${hellaswag_items[@]+"${hellaswag_items[@]}"} --json
fi

stage "export"
if grep -q '^rung = "gpt2"' "$run/config.toml"; then
  [ -e "$OUT/huggingface" ] || lm export "$run" -o "$OUT/huggingface"
  [ -e "$OUT/model.gguf" ] || lm export "$run" -o "$OUT/model.gguf" --dtype float16
else
  echo "only the rung gpt2 has a format elsewhere; the weights are $run/checkpoints/*/model.safetensors" >&2
fi

stage "sample"
keep "$OUT/samples.txt" lm sample "$run" --prompt "Hello, I'm a language model," --num-samples 4 --max-new-tokens 64

stage "report"
lm report "$run" -o "$OUT/report.html"
