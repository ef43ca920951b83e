"""`python -m conformance.report`: writes docs/conformance.md from statements.toml and the tests' marks."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
PAGE = TESTS.parent / "docs" / "conformance.md"
SIDES = {"client": "client_must", "broker": "broker_must"}

HEAD = """# Conformance

Which mandatory statements of [MQTT 5.0](https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html) the
tests show to be kept, by the numbers of its appendix B. What a statement says is put in our own words here;
it is the standard that counts.

The tests of the broker's side send packets by hand to the loopback broker and to Mosquitto, and do again what
the interoperability tests of Eclipse Paho for MQTT 5 do; where the two differ, a test says what each does. In
the tests of the client's side a broker that follows a script watches what reqtt sends. The page is made from
the tests (`make conformance`), and a test fails when it is not what they say.
"""

TITLES = {
    "client": """
## Client

""",
    "broker": """
## Loopback broker

""",
}

PAHO = """
## What the tests of Eclipse Paho look at

| behaviour | shown by |
|---|---|
{rows}
"""

LEFT_OUT = """
## Not tested

| statement | why |
|---|---|
{rows}
"""


def statements() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((HERE / "statements.toml").read_text())
    return found


def marked() -> dict[str, dict[str, list[tuple[Path, str]]]]:
    """Side -> statement -> the tests that are marked with it. Read, not run: the marks are literals."""
    found: dict[str, dict[str, list[tuple[Path, str]]]] = {side: defaultdict(list) for side in SIDES}
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if not any(name in text for name in SIDES.values()):
            continue
        for function in ast.walk(ast.parse(text)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for decorator in function.decorator_list:
                for side, name in SIDES.items():
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == name:
                        for constant in ast.walk(decorator):
                            if isinstance(constant, ast.Constant):
                                found[side][str(constant.value)].append((path, function.name))
    return found


def order(number: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", number.removeprefix("MQTT-"))]


def render() -> str:
    known, shown = statements(), marked()
    page = HEAD
    for side, title in TITLES.items():
        page += title + "| statement | | shown by |\n|---|---|---|\n"
        for number in sorted(known[side], key=order):
            page += f"| {number} | {known[side][number]} | {links(shown[side][number])} |\n"
    here = {name: test for tests in shown["broker"].values() for test in tests for name in test[1:]}
    rows = [
        f"| {what} | {links([here[f'test_{name}'] for name in names])} |"
        for what, names in known["paho"].items()
    ]
    page += PAHO.format(rows="\n".join(rows))
    rows = [f"| {number} | {known['left_out'][number]} |" for number in sorted(known["left_out"], key=order)]
    return page + LEFT_OUT.format(rows="\n".join(rows))


def links(tests: list[tuple[Path, str]]) -> str:
    """The first two: the others are found by the statement's number."""
    shown = []
    for path, name in tests[:2]:
        words = name.removeprefix("test_").replace("_", " ")
        shown.append(f"[{words}](../{path.relative_to(TESTS.parent)})")
    more = len(tests) - len(shown)
    return ", ".join(shown) + (f", {more} more" if more else "")


if __name__ == "__main__":
    PAGE.write_text(render())
