#!/usr/bin/env bash
# The char GPT on tiny Shakespeare: text, training, validation loss, samples, a page. Two minutes on a CPU.
#
#   pip install "bpetok[lm]"
#   bash "$(python -c 'import lm; print(lm.__path__[0])')/recipes/shakespeare-char.sh"
#
# Run it again after a stop, and it goes on where it was.
#
#   OUT      where everything goes               default: runs/shakespeare-char
#   CONFIG   a shipped configuration, or a file  default: 08-shakespeare-char-cpu; with a GPU 08-shakespeare-char
#   TEXT     another text in its place           default: tiny Shakespeare, downloaded if it is not here
#   PROMPT   what the samples begin with         default: ROMEO: and a new line
#   SETS     more for lm train, for example "--set run.steps=500"
set -euo pipefail

OUT=${OUT:-runs/shakespeare-char}
CONFIG=${CONFIG:-08-shakespeare-char-cpu}
read -r -a sets <<<"${SETS:-}"
if [ -n "${TEXT:-}" ]; then
  sets+=(--set data.text="$TEXT")
  PROMPT=${PROMPT:-}
else
  PROMPT=${PROMPT:-$'ROMEO:\n'}
fi

lm train "$CONFIG" -o "$OUT" --resume auto ${sets[@]+"${sets[@]}"}
lm eval "$OUT"
lm sample "$OUT" --prompt "$PROMPT" --num-samples 2 --max-new-tokens 300
lm report "$OUT"
