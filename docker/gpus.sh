#!/usr/bin/env bash
# Tell Spark which GPUs this executor has (spark.executor.resource.gpu.discoveryScript).
set -euo pipefail

indices=$(nvidia-smi --query-gpu=index --format=csv,noheader)
addresses=$(printf '%s\n' "$indices" | sed 's/.*/"&"/' | paste --serial --delimiters=,)
printf '{"name": "gpu", "addresses": [%s]}\n' "$addresses"
