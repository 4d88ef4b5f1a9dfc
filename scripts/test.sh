#!/usr/bin/env bash
# The full suite: installs what the reference checks need, then checks and tests everything.
#
#   bash scripts/test.sh            everything
#   bash scripts/test.sh --rust     only what needs nothing but Rust
#
# Python packages go into target/venv; where root and apt are at hand, Chromium comes from apt. What cannot
# be installed is skipped with its reason. The last lines list every part and every test that was skipped.
set -u
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
passed=0 failed=0
skips=()  # each part that was skipped, with the reason
single=() # each test, or check of a part that ran, that was skipped, with the reason
logs=target/test-logs
mkdir -p "$logs"
rm -f "$logs"/*

# part NAME COMMAND... runs a part. A command that ends with 77 was skipped; its last line says why.
part() {
    local name=$1 begin=$SECONDS code line
    local log=$logs/${name// /-}.log
    shift
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    if [ "$code" = 0 ]; then
        while read -r line; do
            single+=("$name: $line")
        done < <(grep -E '^(test .* was )?skipped: ' "$log")
    fi
    case $code in
    0) passed=$((passed + 1)) && printf '== %s: passed in %d s\n' "$name" $((SECONDS - begin)) ;;
    77) skip "$name" "$(tail -n 1 "$log")" ;;
    *) failed=$((failed + 1)) && printf '== %s: FAILED after %d s\n' "$name" $((SECONDS - begin)) ;;
    esac
}

# skip NAME REASON counts a part that cannot run.
skip() {
    skips+=("$1: ${2#skipped: }")
    printf '\n== %s: skipped: %s\n' "$1" "${2#skipped: }"
}

# tests CARGO-ARGUMENTS... [-- NAMES...] runs tests. Their own output is shown where they fail; a test that
# prints "skipped: REASON" is listed.
tests() {
    case " $* " in
    *" -- "*) set -- "$@" --show-output ;;
    *) set -- "$@" -- --show-output ;;
    esac
    cargo test --no-fail-fast "$@" 2>&1 | awk '
        /^successes:$/ { quiet = 1 }
        /^failures:$/ || /^test result:/ { quiet = 0 }
        quiet && /^---- .* stdout ----$/ { name = $2 }
        quiet && /^skipped: / { print "test " name " was " $0; next }
        !quiet && !/\.\.\. ok$/ && NF { print }
        { fflush() }'
    return "${PIPESTATUS[0]}"
}

# A virtual environment with the pinned packages of scripts/requirements*.txt; made again when they change.
install_python() {
    local stamp=target/venv/requirements.txt
    local pip="target/venv/bin/pip install --quiet --disable-pip-version-check"
    cat scripts/requirements.txt scripts/requirements-no-deps.txt | cmp -s - "$stamp" && return 0
    rm -rf target/venv
    python3 -m venv target/venv &&
        $pip -r scripts/requirements.txt &&
        $pip --no-deps -r scripts/requirements-no-deps.txt || return 1
    # Reads our shards with Megatron's own reader, and is optional.
    $pip --no-deps megatron-core==0.16.1 || true
    # Read GGUF files, run them, and take metrics; optional too.
    $pip --no-deps gguf==0.19.0 xllamacpp==2026.10.11549 pyyaml tqdm || true
    $pip wandb==0.31.0 trackio==0.43.0 || true
    cat scripts/requirements.txt scripts/requirements-no-deps.txt >"$stamp"
}

# The oldest supported torch, for its libraries alone: without what `import torch` needs.
install_oldest_torch() {
    [ -e target/torch-2.10/torch/lib/libtorch_cpu.so ] ||
        target/venv/bin/pip install --quiet --disable-pip-version-check --no-compile --no-deps \
            --target target/torch-2.10 torch==2.10.0 nvidia-cuda-runtime-cu12==12.8.90 \
            nvidia-cuda-cupti-cu12==12.8.90
}

# Huawei's library for Ascend, for the operators that it registers. Any Python's build of it will do.
install_torch_npu() {
    [ -e target/torch-npu/torch_npu/lib/libtorch_npu.so ] ||
        target/venv/bin/pip install --quiet --disable-pip-version-check --no-compile --no-deps \
            --python-version 3.11 --only-binary :all: --target target/torch-npu torch_npu==2.10.0.post7
}

# Debian's Chromium, where nothing like it is there and apt may install it.
install_browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome && return 0
    [ "$(id -u)" = 0 ] && command -v apt-get || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium
}

# Everything that is downloaded, while the first parts compile.
install_all() {
    install_browser >"$logs/install-browser.log" 2>&1
    install_python || return 1
    install_oldest_torch || true
    install_torch_npu || true
}

reference_checks() {
    local build=target/debug python=target/venv/bin/python
    part "golden files" $python scripts/reference/make_fixtures.py --check
    part "transformers' own classes" $python scripts/reference/check_transformers.py --check
    part "models as transformers saves them" $python scripts/reference/make_saved_models.py --check
    part "transformers' reading of configurations" $python scripts/reference/make_config_variants.py --check
    part "transformers' reading of tokenizers" $python scripts/reference/make_tokenizer_variants.py --check
    part "PyTorch's training loop" $python scripts/reference/check_train.py
    part "Megatron's reader, pyarrow, tokenizers" $python scripts/check_megatron.py $build/examples/prepare
    part "same held-out loss as PyTorch" env LINGOT_BUILD=$build $python scripts/compare_pytorch.py --quick
    part "a trained model in transformers" env LINGOT_BUILD=$build bash scripts/check_trained_export.sh
    part "a trained model in llama.cpp" env LINGOT_BUILD=$build bash scripts/check_trained_gguf.sh
    part "measuring an accelerator, without one" measure_without_accelerator
    part "metrics in trackio and Weights & Biases" env LINGOT_BUILD=$build bash scripts/check_metrics.sh
}

# The script that measures accelerators, on torch's view of the processor, with models that take moments.
measure_without_accelerator() {
    local place
    place=$(mktemp -d)
    TINY=1 DEVICE=torch:cpu PEERS=eager PYTHON=target/venv/bin/python LINGOT=target/debug/lingot OUT=$place \
        bench/gpu.sh info train ops align resume
}

# The planner's report of an example, in a browser. Python's own library is enough.
report_in_a_browser() {
    local place
    place=$(mktemp -d)
    target/debug/lingot plan crates/app/tests/plans/example.json --out "$place" >/dev/null &&
        python3 scripts/check_report.py "$place/report.html"
}

has_python=no
if [ "${1:-}" = "--rust" ]; then
    reason="only the parts that need nothing but Rust were asked for"
elif ! command -v python3 >/dev/null; then
    reason="python3 is not installed"
else
    has_python=yes
    install_all >"$logs/install.log" 2>&1 &
    installing=$!
fi

part "format" cargo fmt --all --check
part "lints" cargo clippy --quiet --workspace --all-targets -- -D warnings
part "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
if [ $has_python = yes ]; then
    begin=$SECONDS
    if ! wait "$installing"; then
        has_python=no
        reason="the packages could not be installed: $(tail -n 1 "$logs/install.log")"
    fi
    printf '\nwaited %d s for downloads\n' $((SECONDS - begin))
fi
if [ $has_python = yes ]; then
    LINGOT_TORCH=$(echo "$PWD"/target/venv/lib/python3*/site-packages/torch)
    export LINGOT_TORCH
else
    # Tests that need torch skip, whatever environment is active.
    export LINGOT_TORCH=$PWD/target/no-torch
fi
part "tests" tests --workspace
if cargo deny --version >/dev/null 2>&1; then
    part "licences and advisories" cargo deny --log-level error check bans licenses sources
else
    skip "licences and advisories" "cargo-deny is not installed (cargo install --locked cargo-deny)"
fi

if [ $has_python = yes ]; then
    if [ -e target/torch-2.10/torch/lib/libtorch_cpu.so ]; then
        LINGOT_TORCH=$PWD/target/torch-2.10/torch \
            part "torch 2.10 as a device" tests --package lingot-device --package lingot-train -- torch chip
    else
        skip "torch 2.10 as a device" "it could not be installed"
    fi
    if [ -e target/torch-npu/torch_npu/lib/libtorch_npu.so ]; then
        LINGOT_TORCH=$PWD/target/torch-2.10/torch \
            LINGOT_MAKER=$PWD/target/torch-npu/torch_npu/lib/libtorch_npu.so \
            part "calls against Huawei's library" tests --package lingot-device -- maker::
    else
        skip "calls against Huawei's library" "torch_npu could not be installed"
    fi
    reference_checks
else
    skip "torch 2.10 as a device" "$reason"
    skip "calls against Huawei's library" "$reason"
    skip "reference checks" "$reason"
fi
if [ "${1:-}" = "--rust" ] || ! command -v python3 >/dev/null; then
    skip "the planner's report in a browser" "$reason"
else
    part "the planner's report in a browser" report_in_a_browser
fi

if [ ${#single[@]} -gt 0 ]; then
    printf '\nskipped inside parts that ran:\n'
    printf '  %s\n' "${single[@]}"
fi
if [ ${#skips[@]} -gt 0 ]; then
    printf '\nskipped parts:\n'
    printf '  %s\n' "${skips[@]}"
fi
printf '\n%d checks were skipped inside parts that ran; %d s in all. Parts:\n' ${#single[@]} $SECONDS
printf '%d passed, %d failed, %d skipped\n' $passed $failed ${#skips[@]}
[ $failed = 0 ]
