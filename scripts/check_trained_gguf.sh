#!/usr/bin/env bash
# A model trained here, exported as GGUF, must give the same logits, greedy text and tokens in llama.cpp.
# Ends with 77 where the Python packages `gguf` and `llama-cpp-py-sync` are not installed.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bin=${LINGOT_BUILD:-target/release}
python=${LINGOT_PYTHON:-target/venv/bin/python}
"$python" -c "import gguf, llama_cpp_py_sync" 2>"$work/import" ||
    { echo "skipped: $(tail -n 1 "$work/import")" && exit 77; }
lingot() { "$bin/lingot" "$@"; }

# The architecture that llama.cpp runs, the preset, and what changes it. Reads the same text each time.
while read -r architecture preset more; do
    run=$work/$architecture
    # shellcheck disable=SC2086 # `more` is a list of options
    lingot train runs/quickstart.toml --set "folder=$run" --set "data.cache=$work/data" \
        --set "model.preset=$preset" --set stop.steps=30 --set evaluation.every=0 \
        --set checkpoint.every=0 $more --json >"$work/train.json" 2>/dev/null
    lingot export "$run" --format gguf --out "$run.gguf" --json >"$work/report.json"
    grep -q "\"architecture\": \"$architecture\"" "$work/report.json"
    "$bin/examples/expected_text" "$run" "$run.json"
    "$python" scripts/check_gguf.py "$run.gguf" --expect "$run.json" \
        --tokenizer "$work/data/tokenizer.json" >"$work/answer.json" || { cat "$work/answer.json" && exit 1; }
    echo "$preset as $architecture: same tokens, logits and greedy text"
done <<'END'
bailingmoe2 toy
dots1 toy --set model.head_width=48 --set model.rotary_width=48
glm4moe toy --set model.head_width=48 --set model.mtp_layers=1
bailingmoe toy-v1
qwen3moe toy-v1 --set model.shared_experts=0 --set model.qk_norm=true
llama toy-v1 --set model.shared_experts=0
END
