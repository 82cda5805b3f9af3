#!/usr/bin/env bash
# What one GPU shows, in at most 8 minutes, as one Markdown page: the tests of devices, a sweep of configs/gpu over
# 500 steps, and what a step costs beside plain PyTorch, eager and compiled.
#   scripts/gpu-check.sh [PAGE]             on a CUDA device (default: gpu-check.md)
#   scripts/gpu-check.sh --dry-run [PAGE]   the same on the CPU, with a tiny model: it only shows that this works
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry=""
if [[ "${1:-}" == --dry-run ]]; then dry=yes; shift; fi
page="$(realpath -m "${1:-gpu-check.md}")"
python="${PYTHON:-.venv/bin/python}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
status=0

if [[ -n "$dry" ]]; then
    tests=(-k "E3M4 and counts") # a test or two
    sweep=(smoke --order e5m2 model.n_layer=1 model.n_embd=16 model.n_head=1 model.block_size=16 batch_size=2
        max_steps=4 optimizer.warmup_steps=0 runtime.evaluation_batches=1 use_shadow=false log_rank=false)
    steps=(--device cpu --tiny --rounds 2)
else
    tests=(-m cuda)
    sweep=(gpu/base --order e5m2,e3m4,e7m0 data.tokenizer=bytes max_steps=500)
    steps=(--device cuda --rounds 40)
fi

# part TITLE SECONDS COMMAND...: its output becomes a section; one that fails or takes too long is said there.
part() {
    local title="$1" seconds="$2" begun=$SECONDS code=0
    shift 2
    timeout "$seconds" "$@" >"$work/out" 2>"$work/err" || code=$?
    {
        printf '## %s\n\n' "$title"
        if [[ "$title" == Steps* && $code -eq 0 ]]; then cat "$work/out"; else printf '```\n%s\n```\n' "$(tail -n 40 "$work/out")"; fi
        printf '\n%d s, exit code %d' "$((SECONDS - begun))" "$code"
        if [[ $code -eq 124 ]]; then printf ': cut off after %d s' "$seconds"; fi
        printf '.\n\n'
        if [[ $code -ne 0 ]]; then printf '```\n%s\n```\n\n' "$(tail -n 20 "$work/err")"; fi
    } >>"$work/page"
    if [[ $code -ne 0 ]]; then
        echo "failed: $title" >&2
        status=1
    fi
}

{
    printf '# What a GPU shows\n\n'
    if [[ -n "$dry" ]]; then printf 'A dry run on the CPU with a tiny model: no figure here counts.\n\n'; fi
    "$python" - <<'PY'
import torch

import altgrad_cli

name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"altgrad {altgrad_cli.__version__}, torch {torch.__version__}, {name}.\n")
PY
} >"$work/page" || exit 1
part "Tests of devices" 110 "$python" -m pytest -q -p no:cacheprovider tests/test_devices.py "${tests[@]}"
part "Sweep" 220 "$python" -m altgrad_cli sweep "${sweep[@]}" --no-retries --quiet --out "$work/sweep"
part "Steps, to those of plain PyTorch" 140 "$python" scripts/gpu_steps.py "${steps[@]}"
mv "$work/page" "$page"
echo "$page" >&2
exit "$status"
