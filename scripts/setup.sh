#!/usr/bin/env bash
# Make .venv hold what pyproject.toml asks for; return at once if it already does.
#
# The Makefile's targets call it before they use Python. What has to be on the machine is looked for before anything is
# downloaded, and what is missing is said in one line. `--check-only` does this part alone.
#
# STACK=oldest takes the versions in scripts/stacks/oldest.txt, PYTHON=3.12 that Python; VENV is then an environment of
# their own.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

venv=${VENV:-.venv}
stack=${STACK:+scripts/stacks/$STACK.txt}
wanted_python=${PYTHON:-$([[ ! -f $stack ]] || sed -n 's/^# Python //p' "$stack")}
stamp=$venv/synced          # the place and the pyproject.toml of the last finished set-up
unfinished=$venv/unfinished # exists while a set-up runs, and after one that was killed

fail() {
  echo "setup: $*" >&2
  exit 1
}

# A virtual environment does not survive being moved, so its place is part of what was set up.
wanted() { pwd -P && cat pyproject.toml $stack && echo "${wanted_python:+# Python $wanted_python}"; }

is_synced() { [[ -f $stamp && ! -e $unfinished && -x $venv/bin/python && $(<"$stamp") == "$(wanted)" ]]; }

is_supported_python() {
  "$1" -c "import sys; v = sys.version_info[:2]; wanted = '$wanted_python'
sys.exit(not (3, 10) <= v <= (3, 13) or wanted not in ('', '%d.%d' % v))" &>/dev/null
}

# The oldest uv that understands our [tool.uv]; the dev extra of pyproject.toml has the same bound.
is_recent_uv() {
  [[ $("$1" --version 2>/dev/null) =~ ^uv\ ([0-9]+)\.([0-9]+) ]] && ((BASH_REMATCH[1] > 0 || BASH_REMATCH[2] >= 9))
}

find_uv() {
  local uv
  for uv in uv "$venv/bin/uv"; do
    if is_recent_uv "$uv"; then echo "$uv" && return; fi
  done
}

find_python() {
  local python
  # Those that pyenv has are not in the PATH by their versions.
  for python in python3 python3.13 python3.12 python3.11 python3.10 "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/python; do
    if is_supported_python "$python"; then echo "$python" && return; fi
  done
}

# The major version of the Java that Spark would start; JAVA_HOME goes before PATH.
java_version() {
  local java=${JAVA_HOME:+$JAVA_HOME/bin/}java
  if [[ $("$java" -version 2>&1) =~ version\ \"(1\.)?([0-9]+) ]]; then echo "${BASH_REMATCH[2]}"; fi
}

check_machine() {
  local platform python java tool missing="" packages="" way_out=""
  platform=$(uname -sm)
  [[ $platform == "Linux x86_64" ]] ||
    fail "needs Linux x86_64 (TensorFlow and Horovod), this is $platform; use such a machine or container"

  python=$(find_python)
  if [[ -z $python ]]; then
    missing+=", Python ${wanted_python:-3.10 to 3.13}"
    packages+=" python${wanted_python:-3.11} python${wanted_python:-3.11}-venv"
  elif ! is_recent_uv uv && ! "$python" -c 'import ensurepip' &>/dev/null; then
    missing+=", the venv module of $python"
    packages+=" $python-venv"
  fi

  java=$(java_version)
  if [[ $java != 17 && $java != 21 ]]; then
    missing+=", Java 17 or 21 (found ${java:-none}${JAVA_HOME:+ in JAVA_HOME=$JAVA_HOME})"
    packages+=" openjdk-17-jdk-headless"
    way_out=${JAVA_HOME:+, then unset JAVA_HOME}
  fi

  for tool in g++ make; do
    type -P "$tool" >/dev/null || { missing+=", $tool" && packages+=" $tool"; }
  done
  [[ -z $missing ]] || fail "missing ${missing:2}; run: apt-get install$packages$way_out"
}

# The certificates that this machine trusts, a company's own among them; nothing where none are installed.
system_certificates() {
  local file
  for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem; do
    if [[ -f $file ]]; then echo "$file" && return; fi
  done
}

# uv and pip bring certificates of public authorities along and would refuse those of a company's proxy. What is set for
# them already stays.
trust_system_certificates() {
  local file
  file=$(system_certificates)
  [[ -n $file ]] || return 0
  # One option: its name before uv 0.11, and since.
  export UV_NATIVE_TLS=${UV_NATIVE_TLS:-${UV_SYSTEM_CERTS:-true}}
  export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-$UV_NATIVE_TLS}
  # Not PIP_CERT, which would go before a `cert` in pip's own configuration.
  export REQUESTS_CA_BUNDLE=${REQUESTS_CA_BUNDLE:-${CURL_CA_BUNDLE:-$file}}
}

# A copy of our pyproject.toml, in build/, that asks for the stack's versions: uv reads constraints from there alone.
stack_project() {
  local folder=build/$venv versions
  versions=$(sed -n '/^[^#]/s/.*/"&", /p' "$stack" | tr -d '\n')
  mkdir -p "$folder"
  sed "s/^\[tool\.uv\]\$/&\nconstraint-dependencies = [${versions%, }]/
    s/^requires-python = .*/requires-python = \"==$wanted_python.*\"/" pyproject.toml >"$folder/pyproject.toml"
  echo "$folder"
}

make_venv() {
  local python
  python=$(find_python)
  rm -rf "$venv" && mkdir "$venv" && touch "$unfinished"
  if is_recent_uv uv; then
    "$python" -m venv --without-pip "$venv"
  else
    "$python" -m venv "$venv"
  fi
}

# A set-up that was killed, another place, or another Python: packages may be there by half, so start anew (uv's cache
# has what was downloaded and built). Anything else is brought up to date by uv as it is.
is_usable_venv() {
  [[ ! -e $unfinished ]] && is_supported_python "$venv/bin/python" &&
    [[ ! -f $stamp || $(head -n 1 "$stamp") == "$(pwd -P)" ]] &&
    { [[ -n $(find_uv) ]] || "$venv/bin/python" -c 'import pip' &>/dev/null; }
}

sync_venv() {
  is_usable_venv || make_venv
  touch "$unfinished"
  trust_system_certificates
  [[ -n $(find_uv) ]] || "$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
  # Bytecode: without it every rank that starts would compile TensorFlow's modules anew where Python may not write them.
  # A lock file of an older pyproject.toml would keep the versions of its day. `uv sync --upgrade` would, too, but loads
  # all packages anew, and builds Spark and Horovod again, whatever the cache holds.
  rm -f "${stack:+build/$venv/}uv.lock"
  local sync=("$(find_uv)" sync --python "$venv/bin/python" --extra cpu --extra dev --compile-bytecode)
  export UV_PROJECT_ENVIRONMENT=$PWD/$venv
  # Another set-up may be compiling Horovod; uv would give up after 5 minutes.
  export UV_LOCK_TIMEOUT=${UV_LOCK_TIMEOUT:-1800}
  if [[ -z $stack ]]; then
    "${sync[@]}"
  else
    "${sync[@]}" --project "$(stack_project)" --no-install-project
    "$(find_uv)" pip install --python "$venv/bin/python" --no-deps --editable .
  fi
  wanted >"$stamp"
  rm "$unfinished"
}

stack_names() {
  local files=(scripts/stacks/*.txt)
  files=("${files[@]##*/}") && echo "${files[@]%.txt}"
}

[[ -z $stack || -f $stack ]] || fail "no $stack; there are: $(stack_names)"
if [[ ${1:-} == --check-only ]]; then
  check_machine
  exit
fi
is_synced && exit
check_machine
exec 9<pyproject.toml && flock 9 # one set-up of this checkout at a time; the other then finds the work done
is_synced && exit
echo "setup: making $venv as pyproject.toml says (Horovod is compiled the first time: 2 to 5 minutes)"
start=$SECONDS
sync_venv
echo "setup: $venv is ready after $((SECONDS - start)) s"
