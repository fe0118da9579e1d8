#!/usr/bin/env bash
# Pack interpreter, TensorFlow, Horovod and sparkdl into one archive for `spark-submit --archives`:
#
#   scripts/pack.sh [ARCHIVE]      (default: dist/sparkdl-env-VERSION-pyX.Y.tar.gz)
#
# VENV names another environment than .venv, as scripts/setup.sh made it.
#
# A host needs neither this checkout nor a Python, only Linux x86_64 with this machine's C library or a newer one, and
# Spark.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

python=$PWD/${VENV:-.venv}/bin/python
[[ -x $python ]] || { echo "pack: no ${VENV:-.venv}; run: make setup" >&2 && exit 1; }
version=$("$python" -c '
import sys
from importlib.metadata import version
print("{}-py{}.{}".format(version("sparkdl-tf"), *sys.version_info))')
archive=$(realpath -m "${1:-dist/sparkdl-env-$version.tar.gz}")
mkdir -p build "${archive%/*}"
folder=$(mktemp -d build/pack.XXXXXX)
trap 'rm -rf "$folder" "$archive.part"' EXIT

"$python" -I scripts/pack_files.py "$folder/env"

# From another place, without anything of this environment: what is missing shows now and not on a cluster.
env -i "$folder/env/bin/python" -B -c 'import sparkdl, petastorm, s3fs, horovod.tensorflow, keras, sys
outside = [p for p in sys.path if p and not p.startswith(sys.prefix) and not p.endswith(".zip")]
assert not outside, f"it looks for modules outside of itself: {outside}"' 2>"$folder/errors" ||
  { cat "$folder/errors" >&2 && echo "pack: the packed environment does not work here" >&2 && exit 1; }

# The fastest level: beyond it a tenth of the size costs twice the time, and every container unpacks it.
tar --create --directory="$folder/env" --owner=0 --group=0 --sort=name . | gzip -1 >"$archive.part"
mv "$archive.part" "$archive"
echo "pack: $archive, $(du -m "$archive" | cut -f1) MB, $(du -sm "$folder/env" | cut -f1) MB unpacked"
