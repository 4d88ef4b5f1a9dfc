#!/usr/bin/env bash
# The full suite: installs what the reference checks need into target/venv, then checks and tests everything.
# What cannot be installed is skipped, with a line that says so. Closes with a line that counts the parts.
#
#   bash scripts/test.sh            everything
#   bash scripts/test.sh --rust     only what needs nothing but Rust
set -u
cd "$(dirname "$0")/.."
passed=0 failed=0 skipped=0
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

part() { # part NAME COMMAND...
    local name=$1 begin=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then
        passed=$((passed + 1))
        printf '== %s: passed in %d s\n' "$name" $((SECONDS - begin))
    else
        failed=$((failed + 1))
        printf '== %s: FAILED after %d s\n' "$name" $((SECONDS - begin))
    fi
}

skip() { # skip NAME REASON
    skipped=$((skipped + 1))
    printf '\n== %s: skipped: %s\n' "$1" "$2"
}

# A virtual environment with the pinned packages of scripts/requirements*.txt; made again when they change.
install_python() {
    local stamp=target/venv/requirements.txt pip="target/venv/bin/pip install --quiet --disable-pip-version-check"
    cat scripts/requirements.txt scripts/requirements-no-deps.txt | cmp -s - "$stamp" && return 0
    rm -rf target/venv
    python3 -m venv target/venv &&
        $pip -r scripts/requirements.txt && $pip --no-deps -r scripts/requirements-no-deps.txt || return 1
    # Only for reading our shards with Megatron's own reader.
    $pip --no-deps megatron-core==0.16.1 || echo "megatron-core could not be installed; its check will be skipped"
    cat scripts/requirements.txt scripts/requirements-no-deps.txt >"$stamp"
}

# The oldest torch that can serve, for its libraries alone: without what `import torch` needs.
install_oldest_torch() {
    [ -e target/torch-2.10/torch/lib/libtorch_cpu.so ] ||
        target/venv/bin/pip install --quiet --disable-pip-version-check --no-compile --no-deps --target target/torch-2.10 \
            torch==2.10.0 nvidia-cuda-runtime-cu12==12.8.90 nvidia-cuda-cupti-cu12==12.8.90
}

part "format" cargo fmt --all --check
part "lints" cargo clippy --quiet --workspace --all-targets -- -D warnings
part "tests" cargo test --workspace --no-fail-fast
part "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
if cargo deny --version >/dev/null 2>&1; then
    part "licences and advisories" cargo deny --log-level error check bans licenses sources
else
    skip "licences" "cargo-deny is not installed (cargo install --locked cargo-deny)"
fi

if [ "${1:-}" = "--rust" ]; then
    skip "torch as a device, and reference checks" "asked for --rust"
elif ! command -v python3 >/dev/null; then
    skip "torch as a device, and reference checks" "python3 is not installed"
elif ! install_python; then
    skip "torch as a device, and reference checks" "the packages of scripts/requirements*.txt could not be installed"
else
    python=target/venv/bin/python
    part "torch as a device" env LINGOT_TORCH="$(echo "$PWD"/target/venv/lib/python3*/site-packages/torch)" \
        cargo test --quiet -p lingot-device -p lingot-train -p lingot-app -- torch chip
    if install_oldest_torch; then
        part "torch 2.10 as a device" env LINGOT_TORCH="$PWD/target/torch-2.10/torch" \
            cargo test --quiet -p lingot-device -p lingot-train -- torch chip
    else
        skip "torch 2.10 as a device" "it could not be installed"
    fi
    part "golden files" $python scripts/reference/make_fixtures.py --check
    part "transformers' own classes" $python scripts/reference/check_transformers.py --check
    part "PyTorch's training loop" $python scripts/reference/check_train.py
    part "Megatron's reader, pyarrow, tokenizers" $python scripts/check_megatron.py
    part "same held-out loss as PyTorch" $python scripts/compare_pytorch.py --quick
    part "the planner's report in a browser" bash -c 'place=$(mktemp -d) && cargo run --quiet --package lingot-app -- \
        plan crates/app/tests/plans/example.json --out "$place" >/dev/null && '$python' scripts/check_report.py "$place/report.html"'
    part "a trained model in transformers" bash scripts/check_trained_export.sh
fi

printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
