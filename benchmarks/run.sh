#!/usr/bin/env bash
# Measure altgrad against its neighbours: make a venv for them on top of the project's, run, write RESULTS.md.
# PYTHON names the project's interpreter; arguments go to the measuring program. Checkouts of peers that are on
# no package index are found on PYTHONPATH.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-$here/../.venv/bin/python}"
venv="$here/.venv"
bench="$venv/bin/python"
failed="$venv/not-installed.txt" # peer, tab, why: the report names them

if [[ ! -x "$bench" ]]; then
    "$python" -m venv "$venv"
    # The project's own packages (torch above all) are read from its venv, not installed twice.
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$bench" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
fi
if ! cmp -s "$here/peers.txt" "$venv/peers-installed.txt"; then
    : >"$failed"
    while read -r peer <&3; do
        [[ -z "$peer" || "$peer" == \#* ]] && continue
        echo "installing: $peer" >&2
        if ! said="$("$bench" -m pip install --quiet --disable-pip-version-check "$peer" 2>&1 </dev/null)"; then
            printf '%s\t%s\n' "$peer" "$(grep -m1 '^ERROR' <<<"$said" || tail -n1 <<<"$said")" >>"$failed"
            tail -n1 "$failed" >&2
        fi
    done 3<"$here/peers.txt"
    # What failed is tried again the next time.
    [[ -s "$failed" ]] || cp "$here/peers.txt" "$venv/peers-installed.txt"
fi
cd "$here/.."
export PATH="$venv/bin:$PATH" # ninja, for the peers that build C++
exec "$bench" -m benchmarks "$@"
