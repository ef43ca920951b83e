#!/usr/bin/env bash
# Builds the abi3 wheel and the source distribution, tries both as a user gets them on every CPython from 3.11 up that is
# here, and runs tests with the wheel on those that have not run them all. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/maturin build --release --quiet --out "$work/dist"
.venv/bin/maturin sdist --out "$work/dist" >"$work/sdist.log" 2>&1 || { cat "$work/sdist.log" >&2; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
echo "built $(basename "$wheel")"
case "$wheel" in *-cp311-abi3-*) ;; *) echo "not an abi3 wheel for Python 3.11 and up" >&2; exit 1 ;; esac

# Other crates need not be compiled again for the source distribution.
REQTT_DIST="$work/dist" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}" \
    .venv/bin/python -m pytest -q -p no:cacheprovider tests/release/test_sdist.py

mine=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# Where interpreters usually are: on the PATH, and where pyenv keeps them.
candidates=$(
    for minor in 11 12 13 14 15; do command -v "python3.$minor" || true; done
    ls "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 2>/dev/null || true
)
tried=" "
for python in $candidates; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2] if sys.version_info >= (3, 11) and sys.implementation.name == "cpython" else "")' 2>/dev/null || true)
    [ -n "$version" ] || continue
    case "$tried" in *" $version "*) continue ;; esac
    tried="$tried$version "
    "$python" -m venv "$work/$version"
    "$work/$version/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
    "$work/$version/bin/python" -m pip install --quiet --group dev "$wheel"
    echo "CPython $version:"
    tests=("$@")
    [ "$version" != "$mine" ] || tests=()
    # Not the checks of sources and of load: they do not depend on the interpreter.
    REQTT_DIST="$work/dist" "$work/$version/bin/python" -m pytest -q -p no:cacheprovider -n 3 --dist loadfile ${tests[@]+"${tests[@]}"} tests/release/test_wheel.py \
        --ignore tests/test_typing.py --ignore tests/test_soak.py --ignore tests/support --ignore tests/test_docstrings.py
done
[ "$tried" != " " ] || { echo "no CPython from 3.11 up was found" >&2; exit 1; }
