#!/usr/bin/env bash
# A model trained here, exported, must give the same logits (to 1e-4) and the same greedy text in
# transformers.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The folder of the built programs; a release build is made where none is named.
bin=${LINGOT_BUILD:-}
if [ -z "$bin" ]; then
    bin=target/release
    cargo build --quiet --release --package lingot-app --package lingot-train \
        --example expected_text --bin lingot
fi
lingot() { "$bin/lingot" "$@"; }

for case in "toy glm4_moe" "toy-v1 qwen3_moe" "toy-v1 mixtral" "toy dots1" "toy-v1 olmoe"; do
    read -r preset format <<<"$case"
    case $format in
    qwen3_moe) more=(--set model.shared_experts=0 --set model.qk_norm=true) ;;
    mixtral) more=(--set model.shared_experts=0 --set model.dense_layers=0) ;;
    dots1) more=(--set model.rotary_width=32 --set model.qk_norm=true --set model.mtp_layers=0) ;;
    olmoe)
        more=(--set model.shared_experts=0 --set model.dense_layers=0 --set model.qk_norm=true)
        more+=(--set model.heads=1 --set model.kv_heads=1 --set model.head_width=128)
        more+=(--set model.rotary_width=128)
        ;;
    *) more=() ;;
    esac
    run=$work/$format
    lingot train runs/quickstart.toml --set "folder=$run" --set "model.preset=$preset" \
        --set stop.steps=30 --set evaluation.every=0 --set checkpoint.every=0 "${more[@]}" --json \
        >"$work/train.json" 2>/dev/null
    lingot export "$run" --format "$format" --out "$work/exported-$format" --json >/dev/null
    "$bin/examples/expected_text" "$run" "$work/$preset.json"
    target/venv/bin/python scripts/check_export.py "$work/exported-$format" --expect "$work/$preset.json" \
        >"$work/answer.json"
    echo "$preset as $format: same logits and greedy text"
done
