#!/usr/bin/env bash
# The first hours on a card, in stages of at most 8 minutes, for a machine that has python3 with torch 2.11 and Triton 3.6, a C compiler and
# no network. Everything else comes in a folder of wheels:
#
#   benchmarks/first_card.sh wheels FOLDER     on a machine with a network: fill FOLDER, at most 64 MiB
#   benchmarks/first_card.sh STAGE OUT         on the machine with the card, from a copy of this checkout
#
# STAGE is one of: check, tests, products, step, quick, bench, train, races. Each writes to the folder OUT what it has as soon as it has
# it, so that a stage that is cut off leaves what came before. docs/bare-machine.md says what each outcome decides.
# WHEELS names the folder of wheels (.whl), PYTHON the interpreter (python3).
set -euo pipefail
cd "$(dirname "$0")/.."

WHEELS=${WHEELS:-.whl}
PYTHON=${PYTHON:-python3}
LIMIT_MIB=64
STAGES="check tests products step quick bench train races"

usage() {
  echo "usage: $0 wheels FOLDER, or $0 STAGE OUT with STAGE one of: $STAGES" >&2
  exit 2
}

[ $# = 2 ] || usage
stage=$1
out=$2

# Wheels for the Python of the machine with the card, 3.12 unless PYTHON_VERSION says otherwise.
pack_wheels() {
  local platforms=() glibc
  for glibc in 2_28 2_27 2_24 2_17 2_12 2_5; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
  done
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "${PYTHON_VERSION:-3.12}" \
    "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$out" --requirement benchmarks/first_card_wheels.txt
  local mebibytes
  mebibytes=$(du -sm "$out" | cut -f1)
  echo "$(find "$out" -name '*.whl' | wc -l) wheels, $mebibytes MiB in $out"
  if [ "$mebibytes" -gt "$LIMIT_MIB" ]; then
    echo "$out holds more than $LIMIT_MIB MiB; leave out of benchmarks/first_card_wheels.txt what the machine has" >&2
    exit 1
  fi
}

if [ "$stage" = wheels ]; then
  pack_wheels
  exit
fi
case " $STAGES " in *" $stage "*) ;; *) usage ;; esac

mkdir -p "$out"
out=$(cd "$out" && pwd)
site=${FIRST_CARD_SITE:-/tmp/first_card_site}
if [ -d "$WHEELS" ] && [ ! -e "$site/.whole" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$WHEELS"/*.whl
  touch "$site/.whole"
fi
export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1

# Runs a command for at most so many seconds, with its output on the terminal and in a file, and notes in stages.jsonl how it ended. A stage
# goes on after a failure.
record() {
  local name=$1 seconds=$2 status=0
  shift 2
  local start=$SECONDS
  timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$out/$name.txt" || status=$?
  printf '{"stage": "%s", "part": "%s", "status": %d, "seconds": %d}\n' "$stage" "$name" "$status" "$((SECONDS - start))" >> "$out/stages.jsonl"
}

case $stage in
  check)
    record driver 30 bash -c 'nvidia-smi || echo "no driver answers"'
    record versions 90 "$PYTHON" -m benchmarks.first_card versions
    # Each begins no check after 52 seconds, and the second goes on where the first was.
    record doctor-1 160 "$PYTHON" -m falqon_core doctor
    record doctor-2 160 "$PYTHON" -m falqon_core doctor --json
    ;;
  tests)
    record tests 470 "$PYTHON" -m pytest --confcutdir=tests/gpu -p no:cacheprovider -o addopts= -o filterwarnings=default -v \
      tests/gpu/test_kernels.py tests/gpu/test_attention.py tests/gpu/test_training.py
    ;;
  products)
    record products 470 "$PYTHON" -m benchmarks.first_card products --lines "$out/products.jsonl"
    ;;
  step)
    record step 470 "$PYTHON" -m benchmarks.first_card step --lines "$out/step.jsonl"
    ;;
  quick)
    record quick 240 "$PYTHON" -m falqon_core bench --quick --json "$out/quick.json"
    ;;
  bench)
    record bench 475 "$PYTHON" -m falqon_core bench --json "$out/bench.json"
    ;;
  train)
    record train 470 "$PYTHON" -m benchmarks.first_card train --lines "$out/train.jsonl"
    ;;
  races)
    for tool in memcheck racecheck; do
      record "$tool" 230 compute-sanitizer --tool "$tool" "$PYTHON" -m benchmarks.first_card kernels --lines "$out/$tool.jsonl"
    done
    ;;
esac
