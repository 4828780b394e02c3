#!/usr/bin/env bash
# Makes .venv with Python 3.13 and the hashed requirements. Quick when nothing changed; says what is missing otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.requirements.sha256
wanted=$(cat .python-version requirements/dev.txt requirements/uv.txt cli/pyproject.toml | sha256sum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi

runs_3_13() { [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.13 ]; }

find_python() {
  local candidate
  for candidate in "$(command -v python3.13)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.13*/bin/python "$(command -v python3)"; do
    if [ -n "$candidate" ] && runs_3_13 "$candidate"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  if bring_uv; then
    uv python install --quiet 3.13 && uv python find 3.13
  fi
}

# An older Python can install uv, and uv brings the right one.
bring_uv() {
  command -v uv >/dev/null && return
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  python3 -m venv "$scratch/venv" 2>/dev/null >&2 || return
  "$scratch/venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/uv.txt >&2 || return
  PATH="$scratch/venv/bin:$PATH"
}

if ! { [ -x .venv/bin/python ] && runs_3_13 .venv/bin/python; }; then
  python=$(find_python || true)
  if [ -z "$python" ]; then
    echo "Python 3.13 is missing: install python3.13 with its venv module, or uv, which brings it. Then run make again." >&2
    exit 1
  fi
  echo "Making .venv with $("$python" --version) ..."
  rm -rf .venv
  if command -v uv >/dev/null; then
    uv venv --quiet --python "$python" .venv
  elif ! "$python" -m venv .venv; then
    rm -rf .venv
    echo "$python has no working venv module: install it (Debian: python3.13-venv), or uv. Then run make again." >&2
    exit 1
  fi
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  if [ ! -x .venv/bin/uv ]; then
    .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
  fi
  uv=.venv/bin/uv
fi
echo "Installing the hashed requirements ..."
"$uv" pip install --quiet --python .venv/bin/python --require-hashes -r requirements/dev.txt
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable ./cli
echo "$wanted" > "$stamp"
