"""The wheel as a user gets it: installed into an empty environment. `make wheels` and the workflows run this.

Nothing of the other tests is used here, so that it runs wherever a wheel does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

if "REQTT_DIST" not in os.environ:
    pytest.skip("what is tried here is built by `make wheels`", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
DIST = Path(os.environ["REQTT_DIST"]).resolve()
LIMIT = 8 * 1024 * 1024  # bytes
IMPORT = 0.060  # seconds; a loaded machine may need three times as much
WINDOWS = os.name == "nt"

pytestmark = pytest.mark.timeout(300)


def best_wheel() -> Path:
    """The one that pip would take: several fit a directory with the abi3 wheel and a free-threaded one."""
    wheels = {tag: path for path in DIST.glob("reqtt-*.whl") for tag in parse_wheel_filename(path.name)[3]}
    return next(wheels[tag] for tag in sys_tags() if tag in wheels)


WHEEL = best_wheel()


class Environment:
    """A new virtual environment with the wheel in it."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        venv.create(folder, with_pip=True)
        self.folder = folder
        self.scripts = folder / ("Scripts" if WINDOWS else "bin")
        self.before = self.files()
        self.pip("install", "--quiet", f"{WHEEL}{extra}")

    def pip(self, *arguments: str) -> None:
        done = self.python("-m", "pip", "--disable-pip-version-check", *arguments)
        assert done.returncode == 0, done.stderr

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", *arguments)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = self.scripts / (f"{program}.exe" if WINDOWS else program)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [path, *arguments],
            cwd=self.folder,
            env=environment | {"NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def files(self) -> set[Path]:
        return {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def with_cli(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("cli"), "[cli]")


@pytest.fixture
def names() -> list[str]:
    with zipfile.ZipFile(WHEEL) as wheel:
        return wheel.namelist()


def read(suffix: str) -> bytes:
    with zipfile.ZipFile(WHEEL) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(suffix)]
        return wheel.read(name)


def version() -> str:
    return str(parse_wheel_filename(WHEEL.name)[1])


def test_it_is_small() -> None:
    assert WHEEL.stat().st_size < LIMIT


def test_its_tag_is_the_one_that_this_interpreter_needs() -> None:
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert ("-abi3-" in WHEEL.name) is not free_threaded


def test_it_holds_the_packages_with_their_types_and_nothing_else(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"reqtt", "pytest_reqtt", f"reqtt-{version()}.dist-info"}
    assert {"reqtt/py.typed", "reqtt/_core.pyi", "reqtt/__main__.py"} <= set(names)
    assert len([name for name in names if name.endswith((".so", ".pyd"))]) == 1
    assert [name for name in names if name.endswith((".pyc", ".rs", ".toml")) or "/test_" in name] == []


def test_the_licence_is_inside() -> None:
    assert read(".dist-info/licenses/LICENSE").split() == (ROOT / "LICENSE").read_bytes().split()
    metadata = read(".dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_the_sbom_inside_names_every_crate_with_its_licence() -> None:
    sbom = json.loads(read(".cyclonedx.json"))
    assert sbom["bomFormat"] == "CycloneDX"
    crates = {part["name"]: part for part in sbom["components"]}
    assert {"reqtt-core", "reqtt-loopback", "rumqttc-v5-next", "tokio", "rustls", "pyo3"} <= set(crates)
    assert [name for name, part in crates.items() if not part.get("licenses") or not part.get("purl")] == []


def test_it_puts_no_file_outside_its_packages(bare: Environment) -> None:
    library = Path(sysconfig.get_path("purelib", "venv", {"base": "", "platbase": ""}).lstrip("/\\"))
    # msgspec is all that it needs.
    homes = {library / name for name in ("reqtt", "pytest_reqtt", "msgspec")}
    strangers = {
        path
        for path in bare.files() - bare.before
        if not homes & set(path.parents)
        and not any(parent.name.endswith(".dist-info") for parent in path.parents)
        and "__pycache__" not in path.parts  # pip compiles itself as well
    }
    script = bare.scripts.relative_to(bare.folder) / ("reqtt.exe" if WINDOWS else "reqtt")
    assert strangers == {script}


def test_a_request_is_answered(bare: Environment) -> None:
    script = bare.folder / "first.py"
    script.write_text(
        """
import asyncio, reqtt
from reqtt.testing import LoopbackBroker

@reqtt.responder("lights/{name}")
async def light(name: str, body: str) -> str:
    return f"{name} is {body}"

async def main() -> None:
    async with LoopbackBroker() as broker:
        async with reqtt.Responder(broker.url, [light]), reqtt.Requester(broker.url) as requester:
            print((await requester.request("lights/bedroom", "on")).text)

asyncio.run(main())
""",
        encoding="utf-8",
    )
    done = bare.python("-W", "error", str(script))
    assert (done.returncode, done.stdout, done.stderr) == (0, "bedroom is on\n", "")


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="an interpreter with a GIL")
def test_a_free_threaded_interpreter_stays_so(bare: Environment) -> None:
    done = bare.python("-W", "error", "-c", "import sys, reqtt; print(sys._is_gil_enabled())")
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_without_its_extra_the_command_says_how_to_get_it(bare: Environment) -> None:
    for done in (bare.run("reqtt", "--version"), bare.python("-m", "reqtt", "--version")):
        assert done.returncode == 2
        assert "pip install 'reqtt[cli]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


def test_with_its_extra_the_command_runs(with_cli: Environment) -> None:
    for done in (with_cli.run("reqtt", "--version"), with_cli.python("-m", "reqtt", "--version")):
        assert (done.returncode, done.stdout, done.stderr) == (0, f"reqtt {version()}\n", "")
    shown = with_cli.run("reqtt", "--help")
    assert shown.returncode == 0
    assert "request" in shown.stdout


def test_import_is_quick(bare: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    def best(code: str) -> float:
        took = []
        for _ in range(9):
            start = time.perf_counter()
            assert bare.python("-c", code).returncode == 0
            took.append(time.perf_counter() - start)
        return min(took)

    best("import reqtt")
    cost = best("import reqtt") - best("pass")
    with capsys.disabled():
        sys.stdout.write(f"\nimport reqtt: {cost * 1000:.0f} ms of {IMPORT * 1000:.0f}\n")
    assert cost < 3 * IMPORT, f"{cost * 1000:.0f} ms"
