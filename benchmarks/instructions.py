"""How many instructions a request costs in the core, counted by callgrind: busy machines give the same.

`python -m benchmarks.instructions` compares with `instructions.json`, `--write` sets the figures anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "benchmarks" / "instructions.json"
SCENARIOS = ("qos0", "qos1", "qos1 x100", "qos1, 1000 filters")
REQUESTS = 2000


def build() -> Path:
    """The program that makes the requests; made anew where its sources have changed."""
    command = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "count", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr}")
    for line in done.stdout.splitlines():
        if found := json.loads(line).get("executable"):
            return Path(found)
    raise SystemExit("cargo built no program")


def count(program: Path, scenario: str) -> int:
    """Instructions for one request and its response: requester and responder together."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={directory}/out",
            "--toggle-collect=*count::measured*",
            str(program),
            scenario,
            str(REQUESTS),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise SystemExit("valgrind is not installed: tests/install-servers.sh does it") from None
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not collected:
        raise SystemExit(f"callgrind gave no figure:\n{done.stderr}")
    return round(int(collected[1]) / REQUESTS)


def verdict(scenario: str, counted: int, figures: dict[str, Any]) -> str:
    """Empty, where the figure holds."""
    figure, slack = figures["per_request"][scenario], figures["slack"]
    change = counted / figure - 1
    if abs(change) <= slack:
        return ""
    what = "more" if change > 0 else "fewer"
    then = (
        "find out why, or, if it is worth it, set the figure anew"
        if change > 0
        else "well done: set the figure anew, so that it stays"
    )
    return (
        f"{scenario}: {counted:,} instructions for a request, {abs(change):.0%} {what} than {figure:,}"
        f" ({figures['rustc']}, {figures['target']}): {then} (python -m benchmarks.instructions --write)"
    )


def rustc() -> tuple[str, str]:
    """Version and target."""
    text = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    return text.split("\n", 1)[0], re.findall(r"host: (\S+)", text)[0]


def main(write: bool) -> int:
    program = build()
    counted = {scenario: count(program, scenario) for scenario in SCENARIOS}
    if write:
        version, target = rustc()
        figures = {"per_request": counted, "slack": 0.1, "rustc": version, "target": target}
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    figures = json.loads(FIGURES.read_text())
    for scenario, instructions in counted.items():
        sys.stdout.write(
            f"{scenario:20} {instructions:>8,}  (figure: {figures['per_request'][scenario]:,})\n"
        )
    wrong = [text for scenario in SCENARIOS if (text := verdict(scenario, counted[scenario], figures))]
    sys.stderr.writelines(f"{text}\n" for text in wrong)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
