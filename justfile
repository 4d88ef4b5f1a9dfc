# One line each; `just` lists them.
default:
    @just --list

# Formatting, lints and tests that need nothing but Rust
check:
    bash scripts/test.sh --rust

# Everything, the Python reference checks included
test:
    bash scripts/test.sh

# The quick start
tour:
    cargo run --release -- train runs/quickstart.toml

# Rates of the matrix products on this machine
bench:
    cargo run --release -p lingot-device --example matmul_rate

# Write the golden files again (a refactoring never needs this)
bless:
    target/venv/bin/python scripts/reference/make_fixtures.py
    target/venv/bin/python scripts/reference/check_transformers.py
