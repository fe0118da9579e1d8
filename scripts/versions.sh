#!/usr/bin/env bash
# Run the tests on each version of Spark and Python, and print a table of what they gave.
#
# `scripts/versions.sh [SPARK/PYTHON …]`, all by default. Each pair has an environment of its own, .venv-spark…-python….
# All run, whatever fails; the exit code tells whether one did.
set -uo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

pairs=("$@")
((${#pairs[@]})) || pairs=(3.5/3.10 3.5/3.11 3.5/3.12 4.0/3.10 4.0/3.11 4.0/3.12)
mkdir -p build
table=build/versions.txt
printf '%-7s %-7s %s\n' Spark Python Tests >"$table"
failed=0
for pair in "${pairs[@]}"; do
  spark=${pair%/*} python=${pair#*/}
  log=build/versions-$spark-$python.log
  echo "versions: Spark $spark, Python $python ($log)"
  make test "SPARK=$spark" "PYTHON=$python" >"$log" 2>&1 || failed=1
  told=$(grep -E '^[0-9]+ (passed|failed)' "$log" | tail -n 1)
  printf '%-7s %-7s %s\n' "$spark" "$python" "${told:-$(tail -n 1 "$log")}" >>"$table"
done
cat "$table"
exit "$failed"
