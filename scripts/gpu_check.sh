#!/usr/bin/env bash
# A first look from a GPU, in one call of at most nine minutes on a machine that has Linux, Python and PyTorch.
#
#   bash scripts/gpu_check.sh wheels DIR [PYTHON]  fetch what else is needed, here, for a machine without a network
#                                                  (PYTHON: its version there, 3.12 unless given)
#   [WHEELS=DIR] bash scripts/gpu_check.sh         run every section there
#   bash scripts/gpu_check.sh --device cpu --small show in two minutes, without a GPU, that it works
#
# Environment: PYTHON the interpreter (python3), WHEELS a folder of wheels, OUT a folder for gpu.md, SECTIONS some of
# them, LIMIT seconds for all of them (540). A section that fails or runs out of time does not end the others.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
limit=${LIMIT:-540}

fetch_wheels() { # DIR PYTHON
    local options=(--quiet --dest "$1" --only-binary=:all: --implementation cp --python-version "$2")
    local platform
    for platform in _2_28 _2_17 2014; do
        options+=(--platform "manylinux${platform}_x86_64")
    done
    # Not what they need in turn: torch and numpy are there, and are large.
    "$python" -m pip download "${options[@]}" --no-deps pytorch-ignite tensorboardX protobuf packaging tqdm
    "$python" -m pip download "${options[@]}" pydantic rich pytest
    du -sh "$1"
}

if [[ ${1:-} == wheels ]]; then
    [[ $# -ge 2 ]] || {
        echo "usage: gpu_check.sh wheels DIR [PYTHON]" >&2
        exit 2
    }
    fetch_wheels "$2" "${3:-3.12}"
    exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report=$work/gpu.md
if [[ -n ${OUT:-} ]]; then
    mkdir -p "$OUT"
    report=$OUT/gpu.md
fi
: >"$report"

export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
if [[ -n ${WHEELS:-} ]]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" "$WHEELS"/*.whl
    export PYTHONPATH=$PYTHONPATH:$work/site
fi

begin=$SECONDS
failed=()

section() { # NAME SECONDS [OPTION...]
    local name=$1 seconds=$2 left=$((limit - (SECONDS - begin)))
    shift 2
    [[ " ${SECTIONS:-$name} " == *" $name "* ]] || return 0
    ((seconds < left)) || seconds=$left
    if ((seconds < 5)); then
        printf '\n## %s\n\nLeft out: no time left.\n' "$name" | tee -a "$report"
        failed+=("$name")
        return 0
    fi
    local code=0
    # It stops measuring early enough to print what it has.
    timeout --kill-after=5 "$seconds" "$python" "$root/scripts/gpu_check.py" "$name" \
        --seconds $((seconds * 3 / 4)) "$@" 2>"$work/errors" | tee -a "$report" || code=${PIPESTATUS[0]}
    if ((code != 0)); then
        failed+=("$name")
        {
            ((code != 124 && code != 137)) || printf '\nIt ran out of its %s seconds.\n' "$seconds"
            [[ ! -s $work/errors ]] || printf '\n~~~\n%s\n~~~\n' "$(tail -n 15 "$work/errors")"
        } | tee -a "$report"
    fi
}

section environment 40 "$@"
section tests 120 "$@"
section waits 70 "$@"
section mlp 80 "$@"
section resnet50 110 "$@"
section gpt2 120 "$@"

printf '\n%s seconds. Not right: %s.\n' $((SECONDS - begin)) "${failed[*]:-nothing}" | tee -a "$report"
((${#failed[@]} == 0))
