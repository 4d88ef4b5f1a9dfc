#!/usr/bin/env bash
# Measures Lingot on an accelerator, beside PyTorch on the same card in the same run, and prints one table.
#
#   bench/gpu.sh                     all sections, some nine minutes on an H100
#   bench/gpu.sh train ops           only these: info align train ops profile resume
#
# It needs a built `lingot`, a Python with PyTorch, and no network. A step that fails or takes too long is shown
# and the next one runs; then the script ends with 1. Logs go into OUT, by default a new folder below /tmp;
# OUT/table.md has the table.
#
#   LINGOT   the program                    [target/release/lingot]
#   DEVICE   what it measures               [torch:cuda:0]
#   PYTHON   the Python that has PyTorch    [python3]
#   PEERS    PyTorch's forms: eager, compiled, or none   ["eager compiled"]
#   TRAIN    MODEL:PRECISION:MICROS,...      ["S:f32:1 M:f32:1 G:bf16:1,4 Q:bf16:4"]
#   OPS      MODEL:PRECISION of the op tables            ["G:bf16 Q:bf16"]
#   STEPS    timed steps of each routing    [8]
#   TINY=1   small models and one thread, for a machine without an accelerator
set -u
here=$(cd "$(dirname "$0")" && pwd)
LINGOT=$(realpath "${LINGOT:-$here/../target/release/lingot}")
DEVICE=${DEVICE:-torch:cuda:0} PYTHON=${PYTHON:-python3} TINY=${TINY:-}
PEERS=${PEERS-eager compiled}
if [ -n "$TINY" ]; then
    TRAIN=${TRAIN-T:f32:1,2} OPS=${OPS-T:f32} STEPS=${STEPS:-1} RUN_STEPS=8 THREADS=1
else
    TRAIN=${TRAIN-S:f32:1 M:f32:1 G:bf16:1,4 Q:bf16:4} OPS=${OPS-G:bf16 Q:bf16} STEPS=${STEPS:-8} RUN_STEPS=60 THREADS=0
fi
OUT=${OUT:-$(mktemp -d /tmp/lingot-gpu.XXXXXX)}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
: >"$OUT/steps.tsv"
section=none

# step NAME SECONDS COMMAND... runs a command with a limit, its output in OUT/NAME.out and OUT/NAME.err.
step() {
    local name=$1 limit=$2 begin code seconds
    shift 2
    begin=$(date +%s.%N)
    timeout --kill-after=5 "$limit" "$@" >"$OUT/$name.out" 2>"$OUT/$name.err"
    code=$?
    seconds=$(awk -v b="$begin" -v e="$(date +%s.%N)" 'BEGIN { printf "%.1f", e - b }')
    printf '%s\t%s\t%s\t%s\n' "$section" "$name" "$code" "$seconds" >>"$OUT/steps.tsv"
    case $code in
    0) printf '  %-28s %7s s\n' "$name" "$seconds" ;;
    124 | 137) printf '  %-28s %7s s  STOPPED at its limit of %s s\n' "$name" "$seconds" "$limit" ;;
    *) printf '  %-28s %7s s  FAILED with %s: %s\n' "$name" "$seconds" "$code" \
        "$(grep -m 1 -E '^(error|[A-Za-z.]*Error):?' "$OUT/$name.err" || tail -n 1 "$OUT/$name.err")" ;;
    esac
    return $code
}

# peer MODEL PRECISION MICROS NAME SECONDS OPTIONS... trains the same model with PyTorch.
peer() {
    local model=$1 precision=$2 micros=$3 name=$4 limit=$5 place=${DEVICE#torch:}
    shift 5
    step "$name" "$limit" "$PYTHON" "$here/peer_torch.py" --device "${place%%:*}" --model "$model" \
        --precision "$precision" --micros "$micros" --warm 3 --steps "$STEPS" --json \
        ${TINY:+--threads $THREADS} "$@"
}

lingot_train() {
    step "$4" 90 "$LINGOT" bench train --device "$DEVICE" --model "$1" --precision "$2" --micros "$3" \
        --warm 3 --steps "$STEPS" --threads $THREADS --json
}

info() {
    if command -v nvidia-smi >/dev/null; then
        step card 20 nvidia-smi --format=csv,noheader \
            --query-gpu=name,memory.total,driver_version,clocks.max.sm,power.limit
    fi
    step python 60 "$PYTHON" -c 'import torch; print(torch.__version__, torch.version.cuda)'
    step devices 60 "$LINGOT" devices -v
}

# Ops with their definitions, the ops of a step, whole steps, and curves of 200 steps, in both precisions.
align() {
    local against=(--reference cpu --device "$DEVICE")
    if [ -n "$TINY" ]; then
        step align-modules-f32 100 "$LINGOT" align "${against[@]}" --level modules --threads $THREADS --json
        return
    fi
    for precision in f32 bf16; do
        step align-$precision 200 "$LINGOT" align "${against[@]}" --quick --precision $precision --json
    done
}

# Lingot and PyTorch in turns: Lingot, eager, Lingot, compiled. f32 is not compiled: its products are the same.
train() {
    local entry model precision micros each round
    for entry in $TRAIN; do
        IFS=: read -r model precision micros <<<"$entry"
        for round in eager compiled; do
            for each in ${micros//,/ }; do
                lingot_train "$model" "$precision" "$each" "train-$model-$precision-$each-$round"
            done
            [[ " $PEERS " == *" $round "* ]] || continue
            if [ $round = eager ]; then
                peer "$model" "$precision" "$micros" "peer-$model-$precision-eager" 120
            elif [ "$precision" = bf16 ]; then
                peer "$model" "$precision" "$micros" "peer-$model-$precision-compiled" 200 --compile --routings real
            fi
        done
    done
}

ops() {
    local entry
    for entry in $OPS; do
        step "ops-${entry%%:*}-${entry##*:}" 60 "$LINGOT" bench ops --device "$DEVICE" --model "${entry%%:*}" \
            --precision "${entry##*:}" --threads $THREADS --json
    done
}

# A profile, and its predictions of setups that it was not fitted to.
profile() {
    local precision=bf16 steps=3 only=()
    [ -n "$TINY" ] && precision=f32 steps=1 only=(--only h1)
    step profile 150 "$LINGOT" bench ops --device "$DEVICE" --precision $precision --steps $steps \
        --threads $THREADS --out "$OUT/profile.toml"
    step predict 120 "$LINGOT" bench predict --profile "$OUT/profile.toml" --steps $steps --json "${only[@]}"
}

# A run that is killed and resumed ends with the weights of one that was not.
resume() {
    local name run early
    for name in whole cut; do
        cat >"$OUT/$name.toml" <<RUN
folder = "$OUT/run-$name"
seed = 3
[model]
preset = "toy"
vocabulary = 512
[data]
corpora = [{ path = "$here" }]
sequence = 128
cache = "$OUT/run-data"
[batch]
sequences = 8
micro = 4
[stop]
steps = $RUN_STEPS
[evaluation]
every = 0
[checkpoint]
every = $((RUN_STEPS / 4))
[device]
name = "$DEVICE"
threads = $THREADS
precision = "$([ -n "$TINY" ] && echo f32 || echo bf16)"
RUN
    done
    step resume-whole 120 "$LINGOT" train "$OUT/whole.toml" --json
    early=$(printf '%s/run-cut/checkpoints/step-%08d' "$OUT" $((RUN_STEPS / 4)))
    step resume-killed 120 "$OUT/killed_after" "$early" "$OUT/cut.toml"
    step resume-resumed 120 "$LINGOT" train "$OUT/cut.toml" --json
    run=$(printf 'checkpoints/step-%08d' $RUN_STEPS)
    step resume-same-bits 20 cmp "$OUT/run-whole/$run/weights.safetensors" "$OUT/run-cut/$run/weights.safetensors"
    step resume-same-state 20 cmp "$OUT/run-whole/$run/optimizer.safetensors" "$OUT/run-cut/$run/optimizer.safetensors"
}

# killed_after FOLDER RUN.toml kills a training once the folder is there; fails if the training ended before.
cat >"$OUT/killed_after" <<'KILL'
#!/usr/bin/env bash
"$LINGOT" train "$2" >/dev/null & child=$!
until [ -d "$1" ]; do
    kill -0 $child 2>/dev/null || { echo "error: the training ended before it was killed" >&2; exit 1; }
    sleep 0.01
done
kill -9 $child && ! wait $child 2>/dev/null
KILL
chmod +x "$OUT/killed_after"
export LINGOT

LINGOT_TORCH=${LINGOT_TORCH:-$("$PYTHON" -c \
    'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')} || exit 1
export LINGOT_TORCH
printf 'logs in %s\n' "$OUT"
all="info train ops align resume profile"
for section in "$@"; do
    [[ " $all " == *" $section "* ]] && continue
    printf 'error: unknown section `%s`\n\nhint: choose among %s\n' "$section" "$all" >&2
    exit 2
done
for section in ${*:-$all}; do
    begin=$SECONDS
    printf '%s\n' "$section"
    $section
    printf '  %s in all: %d s\n' "$section" $((SECONDS - begin))
done
"$PYTHON" "$here/gpu_table.py" "$OUT" | tee "$OUT/table.md"
# The runs' checkpoints are large, and have been compared.
rm -rf "$OUT"/run-*
! awk -F '\t' '$3 != 0 { failed = 1 } END { exit !failed }' "$OUT/steps.tsv"
