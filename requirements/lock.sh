#!/usr/bin/env bash
# Compiles every *.in into its hashed *.txt, so that the sets agree on each version they share.
set -euo pipefail
cd "$(dirname "$0")"
compile() {
  "${UV:-../.venv/bin/uv}" pip compile --quiet --python "${PYTHON:-../.venv/bin/python}" --universal --python-version 3.13 \
    --generate-hashes --no-header --no-emit-index-url --no-emit-find-links "$@"
}
compile uv.in -o uv.txt
compile layer.in -o layer.txt
compile -c layer.txt agent.in -o agent.txt
compile -c layer.txt ml.in -o ml.txt
compile -c layer.txt -c agent.txt cli.in -o cli.txt
compile -c layer.txt -c agent.txt -c ml.txt -c cli.txt -c uv.txt dev.in -o dev.txt
