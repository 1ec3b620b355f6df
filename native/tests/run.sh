#!/bin/sh
# Builds the C code with sanitizers, runs its tests and replays what fuzzing found (corpus.zip); then
# the tests again, cross-compiled for AArch64 under qemu when both are installed, with and without
# the dot-product instructions, and for x86-64 under qemu. Says what was executed and what was not.
# With FUZZ_SECONDS=n and clang, also fuzzes each part for n seconds and writes the inputs that are
# worth keeping back to corpus.zip. Set ROUNDS to change the length, BUILD for where to build.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-$here/build/native-tests}
rounds=${ROUNDS:-60}
parts="score graph"
corpus=$here/native/tests/corpus.zip

make_in() { # FOLDER OPTION…
    folder=$1
    shift
    cmake -S "$here" -B "$build/$folder" -DEDGEFACE_PYTHON=OFF "$@" >/dev/null
    cmake --build "$build/$folder" --parallel 2 >/dev/null
}

test_in() { # FOLDER [EMULATOR…]
    folder=$1
    shift
    for part in $parts; do "$@" "$build/$folder/test_$part" "$rounds"; done
}

echo "== native, address and undefined-behaviour sanitizers"
make_in sanitized -DEDGEFACE_TESTS=ON -DEDGEFACE_SANITIZE=ON
test_in sanitized
rm -rf "$build/corpus"
python3 -m zipfile -e "$corpus" "$build/corpus"
for part in $parts; do "$build/sanitized/replay_$part" "$build/corpus/$part"/*; done

echo "== AArch64 under emulation"
if command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null; then
    make_in aarch64 -DEDGEFACE_TESTS=ON \
        -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_EXE_LINKER_FLAGS=-static
    test_in aarch64 qemu-aarch64 -cpu max
    echo "-- a processor without dot product:"
    test_in aarch64 qemu-aarch64 -cpu cortex-a53
else
    echo "neon, neondot: NOT executed: aarch64-linux-gnu-gcc or qemu-aarch64 is missing"
fi

# qemu-user emulates AVX2 from 7.2 on and no AVX-512: those kernels run on silicon only.
echo "== x86-64 under emulation"
if command -v qemu-x86_64 >/dev/null; then
    make_in plain -DEDGEFACE_TESTS=ON -DCMAKE_EXE_LINKER_FLAGS=-static
    test_in plain qemu-x86_64 -cpu max
else
    echo "avx2: not emulated: qemu-x86_64 is missing"
fi

if [ "${FUZZ_SECONDS:-0}" -gt 0 ]; then
    if ! command -v clang >/dev/null; then
        echo "fuzz: NOT executed: clang is missing"
        exit 0
    fi
    make_in fuzz -DEDGEFACE_FUZZ=ON -DEDGEFACE_SANITIZE=ON -DCMAKE_C_COMPILER=clang
    rm -rf "$build/kept"
    for part in $parts; do
        echo "== fuzzing $part for $FUZZ_SECONDS s"
        mkdir -p "$build/kept/$part" "$build/corpus/$part"
        "$build/fuzz/fuzz_$part" -max_len=8192 -max_total_time="$FUZZ_SECONDS" \
            -print_final_stats=1 "$build/corpus/$part"
        "$build/fuzz/fuzz_$part" -max_len=8192 -merge=1 "$build/kept/$part" "$build/corpus/$part"
    done
    # Names by content and no dates: the same inputs make the same file.
    python3 - "$build/kept" "$corpus" <<'PYTHON'
import pathlib, sys, zipfile
kept = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
    for file in sorted(f for f in kept.rglob("*") if f.is_file()):
        out.writestr(zipfile.ZipInfo(str(file.relative_to(kept))), file.read_bytes(),
                     zipfile.ZIP_DEFLATED)
print(f"{sys.argv[2]}: {sum(1 for f in kept.rglob('*') if f.is_file())} inputs")
PYTHON
fi
