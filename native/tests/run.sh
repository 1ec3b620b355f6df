#!/bin/sh
# Builds the C code with sanitizers and runs its tests natively, then cross-compiled for AArch64
# under qemu when both are installed, with and without the dot-product instructions. Says what was
# executed and what was not. With FUZZ_SECONDS=n and clang, also fuzzes for n seconds; the corpus is
# native/tests/corpus. Set ROUNDS to change the length, BUILD for where to build.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-$here/build/native-tests}
rounds=${ROUNDS:-60}
common="-DEDGEFACE_PYTHON=OFF"

echo "== native, address and undefined-behaviour sanitizers"
cmake -S "$here" -B "$build/sanitized" $common -DEDGEFACE_TESTS=ON -DEDGEFACE_SANITIZE=ON \
    >/dev/null
cmake --build "$build/sanitized" >/dev/null
"$build/sanitized/test_native" "$rounds"

echo "== AArch64 under emulation"
if command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null; then
    cmake -S "$here" -B "$build/aarch64" $common -DEDGEFACE_TESTS=ON \
        -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_EXE_LINKER_FLAGS=-static >/dev/null
    cmake --build "$build/aarch64" >/dev/null
    qemu-aarch64 -cpu max "$build/aarch64/test_native" "$rounds"
    echo "-- a processor without dot product:"
    qemu-aarch64 -cpu cortex-a53 "$build/aarch64/test_native" "$rounds"
else
    echo "neon, neondot: NOT executed: aarch64-linux-gnu-gcc or qemu-aarch64 is missing"
fi

# qemu-user emulates AVX2 from 7.2 on and no AVX-512: those kernels run on silicon only.
echo "== x86-64 under emulation"
if command -v qemu-x86_64 >/dev/null; then
    cmake -S "$here" -B "$build/plain" $common -DEDGEFACE_TESTS=ON \
        -DCMAKE_EXE_LINKER_FLAGS=-static >/dev/null
    cmake --build "$build/plain" >/dev/null
    qemu-x86_64 -cpu max "$build/plain/test_native" "$rounds"
else
    echo "avx2: not emulated: qemu-x86_64 is missing"
fi

if [ "${FUZZ_SECONDS:-0}" -gt 0 ]; then
    echo "== fuzzing for $FUZZ_SECONDS s"
    if command -v clang >/dev/null; then
        cmake -S "$here" -B "$build/fuzz" $common -DEDGEFACE_FUZZ=ON -DEDGEFACE_SANITIZE=ON \
            -DCMAKE_C_COMPILER=clang >/dev/null
        cmake --build "$build/fuzz" >/dev/null
        mkdir -p "$here/native/tests/corpus"
        "$build/fuzz/fuzz" -max_len=8192 -max_total_time="$FUZZ_SECONDS" -print_final_stats=1 \
            "$here/native/tests/corpus"
    else
        echo "fuzz: NOT executed: clang is missing"
    fi
fi
