"""The source distribution: what is in it, and that pip builds the same wheel from it. For `make wheels`."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if "REQTT_DIST" not in os.environ:
    pytest.skip("what is tried here is built by `make wheels`", allow_module_level=True)

DIST = Path(os.environ["REQTT_DIST"]).resolve()


@pytest.fixture
def sdist() -> Path:
    (path,) = DIST.glob("reqtt-*.tar.gz")
    return path


def test_it_has_the_sources_the_lock_and_the_licence_and_nothing_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= names
    assert {".cargo/config.toml", "src/core/src/lib.rs", "src/binding/src/lib.rs"} <= names
    assert {"python/reqtt/py.typed", "python/pytest_reqtt/__init__.py"} <= names
    built = [name for name in names if name.endswith((".so", ".pyd", ".pyc", ".whl")) or "target/" in name]
    assert built == []
    assert sdist.stat().st_size < 2 * 1024 * 1024


@pytest.mark.timeout(900)
def test_pip_builds_the_same_wheel_from_it(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    # Files of an archive are old: cargo would take what an earlier run compiled for the same.
    for path in source.rglob("*"):
        path.touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = tmp_path.glob("*.whl")
    (wheel,) = DIST.glob("reqtt-*-abi3-*.whl")
    with zipfile.ZipFile(built) as one, zipfile.ZipFile(wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
