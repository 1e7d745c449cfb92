#!/usr/bin/env bash
# GPT-2 124M on one GPU beside its peers: builds the package, then runs benchmarks/bench_gpu.py. Under ten minutes, no network.
#
#   bash benchmarks/gpu.sh                      everything, in the order of its worth, until the time is over
#   bash benchmarks/gpu.sh --part train         one part (gate, train, decode, char, tests, ceiling, more); may repeat
#   bash benchmarks/gpu.sh --only 'ours, batch' rows whose title has this; --list tells them all
#   bash benchmarks/gpu.sh --smoke              the same at tiny sizes on the CPU; builds nothing
#
# On the machine there must be: Python >= 3.11, torch, numpy, regex, click, rich, safetensors; to build: pip, nanobind,
# scikit-build-core, cmake, ninja and a C++20 compiler. transformers, pytest and hypothesis are used where they are there.
# What does not come with the repository has to be brought along; without it its rows stand as unmeasured:
#
#   PEERS        a folder (default .peers) with nanoGPT/model.py of karpathy/nanoGPT and build-nanogpt/train_gpt2.py of
#                karpathy/build-nanogpt, as they are; nothing else of them is read
#   BPETOK_DATA  a folder (default .data, if it is there) with tinyshakespeare.txt
#
# Variables: SECONDS_FOR_ROWS (default 420) for all rows together, BUILD=1 to build though the package is there, OUT for
# the results (gpu.json, gpu.log, build.log; default: benchmarks/results/<device>/), PYTHON (default python3).
#
# It exits with 0 if no row failed, 1 if one did, 2 if nothing could be run. A second call the same day adds its rows.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
export PEERS=${PEERS:-.peers}
if [ -z "${BPETOK_DATA:-}" ] && [ -d .data ]; then export BPETOK_DATA=$PWD/.data; fi
export HF_HUB_OFFLINE=1 GOMP_SPINCOUNT=20000 PYTHONUNBUFFERED=1

# Asked from another folder: in this one `import bpetok` finds the sources, which have no compiled core.
is_installed() { (cd / && "$PYTHON" -c 'import bpetok, lm, cli') >/dev/null 2>&1; }

case " $* " in *" --smoke "* | *" --list "* | *" --help "*) building=no ;; *) building=yes ;; esac
if [ "$building" = yes ] && { [ "${BUILD:-0}" = 1 ] || ! is_installed; }; then
  log=${OUT:-${TMPDIR:-/tmp}}/build.log
  begin=$SECONDS
  # Editable: a plain install would be hidden by the folder that the tests run in.
  if timeout 240 "$PYTHON" -m pip install --no-deps --no-build-isolation --no-index -e . >"$log" 2>&1 && is_installed; then
    echo "built in $((SECONDS - begin)) s" >&2
  else
    tail -n 30 "$log" >&2
    echo "gpu.sh: the package must build, got the above; the whole log: $log" >&2
    exit 2
  fi
fi
# What comes later on the line wins, so --seconds may be given, too.
exec "$PYTHON" benchmarks/bench_gpu.py --seconds "${SECONDS_FOR_ROWS:-420}" "$@"
