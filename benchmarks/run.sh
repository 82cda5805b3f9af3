#!/usr/bin/env bash
# Measure altgrad against its neighbours: make a venv for them on top of the project's, run, write RESULTS.md.
# PYTHON names the project's interpreter; arguments go to the measuring program.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-$here/../.venv/bin/python}"
bench="$here/.venv/bin/python"

if [[ ! -x "$bench" ]]; then
    "$python" -m venv "$here/.venv"
    # The project's own packages (torch above all) are read from its venv, not installed twice.
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$bench" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
fi
if ! cmp -s "$here/peers.txt" "$here/.venv/peers-installed.txt"; then
    # A peer that does not install here is left out of the tables, with its reason there.
    while read -r peer; do
        [[ -z "$peer" || "$peer" == \#* ]] || "$bench" -m pip install --quiet "$peer" || echo "not installed: $peer" >&2
    done <"$here/peers.txt"
    cp "$here/peers.txt" "$here/.venv/peers-installed.txt"
fi
cd "$here/.."
exec "$bench" -m benchmarks "$@"
