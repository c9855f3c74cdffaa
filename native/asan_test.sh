#!/bin/bash
# Build the extension with the address and undefined-behaviour sanitizers and run the C code's tests with it.
# Works on a copy under build/asan: the ordinary build stays as it is. Needs gcc's libasan and libubsan.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
copy=$root/build/asan
asan=$(${CC:-gcc} -print-file-name=libasan.so)
ubsan=$(${CC:-gcc} -print-file-name=libubsan.so)

if [[ $asan != /* || $ubsan != /* ]]; then
    echo "asan_test.sh: ${CC:-gcc} has no libasan and libubsan on this machine: install them to run this" >&2
    exit 1
fi

rm -rf "$copy"
mkdir -p "$copy"
cp -r "$root"/{dqlite_py,native,tests,setup.py,pyproject.toml} "$copy"
rm -f "$copy"/dqlite_py/*.so
cd "$copy"

flags="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
CFLAGS=$flags LDFLAGS="-fsanitize=address,undefined" "$python" setup.py -q build_ext --inplace

tests=("$@")
if [[ ${#tests[@]} -eq 0 ]]; then
    tests=(tests/unit/native tests/unit/storage/test_engine_*.py tests/unit/storage/test_live*.py tests/unit/storage/test_readers.py
           tests/property/test_apply_*.py tests/property/test_engine_*.py tests/property/test_live_*.py
           tests/unit/raft/journal/test_group.py tests/property/test_journal_group_twins.py)
fi
# Leaks are looked for at the end of the run: Python itself leaves none. The frames of a report need -g and the slow
# unwinder: ASAN_OPTIONS=fast_unwind_on_malloc=0
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1${ASAN_OPTIONS:+:$ASAN_OPTIONS} UBSAN_OPTIONS=print_stacktrace=1
# Every bytes object in an allocation of its own: reading past a payload is seen.
export PYTHONMALLOC=malloc
export DQLITE_FUZZ_ROUNDS=${DQLITE_FUZZ_ROUNDS:-20000}
LD_PRELOAD="$asan $ubsan" PYTHONPATH=$copy "$python" -m pytest -q -p no:randomly -p no:cacheprovider "${tests[@]}"
