#!/usr/bin/env bash
# Run the tests on the stacks of scripts/stacks and on the default one, and print a table of versions and results. Then
# read what the oldest stack wrote on the newest, and the other way round.
#
# `scripts/versions.sh [STACK …]`, all without arguments. Each has an environment of its own, .venv-STACK, kept for the
# next time. All run, whatever fails; the exit code tells whether one did.
set -uo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

stacks=("$@")
((${#stacks[@]})) || stacks=(oldest spark4.0-oldest spark3.5 spark4.0 default newest)
mkdir -p build
table=build/versions.md
packages="pyspark tensorflow-cpu keras numpy pyarrow pandas"
echo "| stack | Python | ${packages// / | } | tests |" >"$table"
echo "|---|---|---|---|---|---|---|---|---|" >>"$table"
failed=0
for stack in "${stacks[@]}"; do
  log=build/versions-$stack.log
  echo "versions: $stack ($log)"
  if [[ $stack == default ]]; then
    chosen=() python=.venv/bin/python
  else
    chosen=("STACK=$stack") python=.venv-$stack/bin/python
  fi
  make test "${chosen[@]}" >"$log" 2>&1 || failed=1
  found=$("$python" -c '
import sys
from importlib.metadata import version
print(" | ".join(["{}.{}.{}".format(*sys.version_info), *map(version, sys.argv[1:])]))' $packages)
  told=$(grep -E '^[0-9]+ (passed|failed)' "$log" | tail -n 1)
  echo "| $stack | $found | ${told:-$(tail -n 1 "$log")} |" >>"$table"
done

# What one stack prepares, saves and interrupts must be what the other reads, with the same bits. Keras reads models and
# states of older versions alone.
across() {
  local writer=.venv-$1/bin/python reader=.venv-$2/bin/python folder log=build/versions-$1-$2.log
  echo "versions: $1 writes, $2 reads ($log)"
  folder=$(mktemp -d "$PWD/build/across.XXXXXX")
  cp tests/fixtures/make_*.py "$folder"
  (
    set -e
    export SPARKDL_FIXTURES=$folder
    "$writer" tests/fixtures/make_dataset_v1.py
    [[ $1 == newest ]] || { "$writer" tests/fixtures/make_model_v1.py && "$writer" tests/fixtures/make_run_v1.py; }
    "$reader" -m pytest "${@:3}"
  ) >"$log" 2>&1 || failed=1
  echo "$1 writes, $2 reads: $(tail -n 1 "$log")" >>"$table"
  rm -rf "$folder"
}
format=test_format_1.py
if ((!$#)); then
  echo >>"$table"
  across newest oldest tests/spark/data/$format
  across oldest newest tests/spark/data/$format tests/spark/model/$format tests/ranks/train/run/$format
fi
cat "$table"
exit "$failed"
