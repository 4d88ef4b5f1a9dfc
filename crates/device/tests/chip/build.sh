#!/bin/sh
# Builds the test chip against the headers of an installed torch: build.sh TORCH_FOLDER OUT.so
set -eu
torch=$1
out=$2
here=$(cd "$(dirname "$0")" && pwd)
# Aside and then in place, so that two builds at once do not meet in one file.
g++ -std=c++20 -O1 -fPIC -shared -w -I"$torch/include" -I"$torch/include/torch/csrc/api/include" \
    "$here/chip.cpp" -o "$out.$$" -L"$torch/lib" -lc10 -ltorch_cpu
mv "$out.$$" "$out"
