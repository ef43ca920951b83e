"""The workflows on GitHub: what can be known of them without running them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NAMES = [path.name for path in WORKFLOWS]
# A version or a commit. `main`, `stable` or `release/v1` would be whatever is there on the day.
PINNED = re.compile(r"[\w.-]+/[\w./-]+@(v\d+(\.\d+){0,2}|[0-9a-f]{40})")
# All that any job may write, and which one.
WRITES = {
    ("release.yml", "pypi"): {"id-token": "write", "attestations": "write"},
    ("release.yml", "github"): {"contents": "write"},
}


def load(path: Path) -> dict[str, Any]:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(workflow, dict)
    # YAML 1.1 takes `on` for a truth value.
    return {"on" if key is True else key: value for key, value in workflow.items()}


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def test_the_workflows_are_there() -> None:
    assert NAMES == ["ci.yml", "release.yml", "wheels.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_every_action_is_pinned_to_a_version(path: Path) -> None:
    workflow = load(path)
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    called = [job["uses"] for job in workflow["jobs"].values() if "uses" in job]
    assert used or called
    assert [action for action in used if not PINNED.fullmatch(action)] == []
    assert all((ROOT / workflow).is_file() for workflow in called)


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_nothing_may_be_written_but_what_a_release_needs(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        rights = {right: level for right, level in job.get("permissions", {}).items() if level != "read"}
        assert rights == WRITES.get((path.name, name), {}), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_no_job_waits_for_ever_and_no_checkout_keeps_a_credential(path: Path) -> None:
    workflow = load(path)
    for name, job in workflow["jobs"].items():
        assert "uses" in job or 0 < job["timeout-minutes"] <= 60, name
        assert "uses" in job or job["steps"], name
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_there_is_no_secret_to_lose(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    assert "secrets: inherit" not in text
    # What strangers choose (a branch's name, a title) never becomes part of a script.
    assert "pull_request_target" not in text
    assert [step["run"] for step in steps(load(path)) if "${{" in step.get("run", "")] == []


def test_what_is_published_was_built_by_the_same_run_and_tried() -> None:
    jobs = load(ROOT / ".github/workflows/release.yml")["jobs"]
    assert load(ROOT / ".github/workflows/release.yml")["on"] == {"push": {"tags": ["v*"]}}
    assert jobs["wheels"]["needs"] == "version"
    assert jobs["pypi"]["needs"] == "wheels"
    assert jobs["pypi"]["environment"]["name"] == "pypi"
    assert jobs["github"]["needs"] == "pypi"


@pytest.mark.skipif(shutil.which("bash") is None, reason="the step is a shell script")
@pytest.mark.parametrize(
    ("tag", "heading", "complaint"),
    [
        ("v1.2.3", "## [1.2.3] - 2030-01-31", ""),
        ("v1.2.4", "## [1.2.3] - 2030-01-31", "tag v1.2.4, but Cargo.toml has 1.2.3"),
        ("v1.2.3", "## [1.2.3] - unreleased", "CHANGELOG.md has no line '## [1.2.3] - date'"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(tag: str, heading: str, complaint: str, tmp_path: Path) -> None:
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    (tmp_path / "Cargo.toml").write_text(re.sub(r'(?m)^version = ".*"$', 'version = "1.2.3"', manifest))
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    job = load(ROOT / ".github/workflows/release.yml")["jobs"]["version"]
    done = subprocess.run(
        ["bash", "-e", "-c", job["steps"][-1]["run"]],
        cwd=tmp_path,
        env=os.environ | {"GITHUB_REF_NAME": tag},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0, done.stdout.strip()) == (bool(complaint), complaint)


def test_wheels_are_built_for_every_platform_with_and_without_the_gil() -> None:
    jobs = load(ROOT / ".github/workflows/wheels.yml")["jobs"]
    linux = {(row["libc"], row["target"]) for row in jobs["linux"]["strategy"]["matrix"]["include"]}
    assert linux == {(libc, cpu) for libc in ("2_28", "musllinux_1_2") for cpu in ("x86_64", "aarch64")}
    desktop = {row["runner"] for row in jobs["desktop"]["strategy"]["matrix"]["include"]}
    assert desktop == {"macos-15-intel", "macos-15", "windows-2025", "windows-11-arm"}
    for name in ("linux", "desktop"):
        arguments = [
            step["with"]["args"] for step in jobs[name]["steps"] if "maturin-action" in step.get("uses", "")
        ]
        assert arguments == [
            "--release --locked --out dist",
            "--release --locked --out dist -i python3.14t",
        ]
    assert jobs["sdist"]


def test_the_targets_of_the_audit_are_those_of_the_wheels() -> None:
    deny = tomllib.loads((ROOT / "deny.toml").read_text(encoding="utf-8"))
    systems = ("unknown-linux-gnu", "unknown-linux-musl", "apple-darwin", "pc-windows-msvc")
    assert set(deny["graph"]["targets"]) == {f"{cpu}-{os}" for cpu in ("x86_64", "aarch64") for os in systems}
    assert deny["advisories"]["ignore"] == []


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not here: ci.yml runs it")
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(["actionlint"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
