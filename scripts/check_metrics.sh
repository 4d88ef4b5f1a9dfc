#!/usr/bin/env bash
# The metrics of a run must arrive in trackio and in an offline run of Weights & Biases, every row of them.
# Ends with 77 where neither package is installed.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bin=$(realpath "${LINGOT_BUILD:-target/release}")
python=$(realpath -s "${LINGOT_PYTHON:-target/venv/bin/python}")
export TRACKIO_DIR=$work/trackio WANDB_SILENT=true WANDB_MODE=offline
"$bin/lingot" train runs/quickstart.toml --set "folder=$work/run" --set metrics=true --set stop.steps=12 \
    --set evaluation.every=4 --set evaluation.sequences=2 --json >"$work/train.json" 2>/dev/null
rows=$(wc -l <"$work/run/metrics.jsonl")
cd "$work"
found=0
for tracker in trackio wandb; do
    code=0
    "$python" "$root/scripts/import_metrics.py" run --to $tracker >"$tracker.log" 2>&1 || code=$?
    if [ $code = 77 ]; then
        tail -n 1 "$tracker.log"
        continue
    fi
    [ $code = 0 ] || { cat "$tracker.log" && exit 1; }
    grep -q "^$rows rows of" "$tracker.log"
    found=1
    echo "$tracker has the $rows rows"
done
if [ $found = 0 ]; then
    echo "skipped: neither trackio nor wandb is installed"
    exit 77
fi
