#!/usr/bin/env bash
# Build wheels that can be kept into dist/: sparkdl-tf, and Horovod for this environment's Python and TensorFlow.
#
# VENV names another environment than .venv, as scripts/setup.sh made it.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

python=$PWD/${VENV:-.venv}/bin/python
[[ -x $python ]] || { echo "wheels: no ${VENV:-.venv}; run: make setup" >&2 && exit 1; }
uv=$(type -P uv || echo "${python%/*}/uv")
tensorflow=$("$python" -c '
from importlib.metadata import version
print("tensorflow-cpu==" + version("tensorflow-cpu"))')
# The certificates that this machine trusts, as in scripts/setup.sh; the option's name before uv 0.11, and since.
export UV_NATIVE_TLS=${UV_NATIVE_TLS:-true} UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
mkdir -p build dist
folder=$(mktemp -d build/wheels.XXXXXX)
trap 'rm -rf "$folder"' EXIT

"$uv" build --quiet --wheel --out-dir dist .
# pip builds wheels of packages by name; Horovod's build imports the TensorFlow that it is for.
"$uv" venv --quiet --python "$python" "$folder/env"
"$uv" pip install --quiet --python "$folder/env/bin/python" pip "$tensorflow" "setuptools<70" wheel packaging "cmake<4"
eval "$("$python" scripts/horovod_build.py)"
PATH=$PWD/$folder/env/bin:$PATH "$folder/env/bin/python" -m pip wheel --quiet --disable-pip-version-check \
  --no-build-isolation --no-deps --no-cache-dir --wheel-dir dist "horovod==0.28.1"
ls -1 dist/*.whl
tag=$("$python" -c 'import sys; print("cp{}{}".format(*sys.version_info))')
echo "pip install \"$(ls dist/sparkdl_tf-*.whl)[cpu]\" $(ls dist/horovod-*"$tag"*.whl) $tensorflow"
