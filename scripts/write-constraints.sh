#!/usr/bin/env bash
# Writes constraints.txt: the exact versions, transitive ones too, of a clean install that was tested.
# Local version labels (a build's "+cpu") are dropped, so that the file holds on every machine.
set -euo pipefail
python="${1:-python3}"
cd "$(dirname "$0")/.."
venv="$(mktemp -d)"
trap 'rm -rf "$venv"' EXIT

"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet 'torch==2.13.0' '.[dev]'
{
    echo "# Exact versions that altgrad was tested with (pip install -c constraints.txt ...)."
    echo "# Written by: make constraints"
    "$venv/bin/python" -m pip freeze --all --exclude altgrad --exclude pip | sed -E 's/\+[A-Za-z0-9.]+$//; s/ @ .*//' | sort -f
} >constraints.txt.new
mv constraints.txt.new constraints.txt
