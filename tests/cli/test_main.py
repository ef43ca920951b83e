"""`reqtt` itself: help, version, completion, and what it does without its extra."""

from __future__ import annotations

import re

import pytest

from support.command import run
from support.waiting import run_script

COMMANDS = ("request", "respond", "serve", "broker", "check", "trace", "bench", "demo", "asyncapi")


async def test_help_names_every_command() -> None:
    done = await run("--help")
    assert (done.code, done.stderr) == (0, "")
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", done.text)] == []


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_explains_itself_in_40_columns(command: str) -> None:
    done = await run(command, "--help", env={"COLUMNS": "40", "TERM": "dumb"})
    assert (done.code, done.stderr) == (0, "")
    assert max(map(len, done.text.splitlines())) <= 40
    assert "\x1b" not in done.text


async def test_without_a_command_it_shows_help_and_fails() -> None:
    done = await run()
    assert done.code == 2
    assert "request" in done.text


async def test_version() -> None:
    import reqtt

    assert (await run("--version")).text == f"reqtt {reqtt.__version__}\n"


async def test_a_typing_error_is_one_line() -> None:
    done = await run("reqest", "t")
    assert done.code == 2
    assert "Did you mean 'request'" in done.complaint()
    assert (await run("request")).complaint().endswith("see reqtt request --help")
    assert "--qos" in (await run("request", "t", "--qos", "3")).complaint()


async def test_a_shell_can_complete() -> None:
    # What the script of `--install-completion` asks.
    asked = {"_REQTT_COMPLETE": "complete_bash", "COMP_WORDS": "reqtt re", "COMP_CWORD": "1"}
    done = await run(env=asked)
    assert done.text.split() == ["request", "respond"]
    option = {**asked, "COMP_WORDS": "reqtt request --user", "COMP_CWORD": "2"}
    assert (await run(env=option)).text.split() == ["--user-property", "--username"]


async def test_a_url_with_a_wrong_scheme_does_not_show_its_password() -> None:
    done = await run("request", "t", "--url", "http://me:secret@localhost")
    assert done.code == 2
    assert "secret" not in done.complaint()


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_how_to_get_it(missing: str) -> None:
    done = run_script(
        f"import sys; sys.modules[{missing!r}] = None\nfrom reqtt.cli import main\nsys.exit(main(['--help']))"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'reqtt[cli]'" in done.stderr


def test_import_reqtt_loads_nothing_of_it() -> None:
    done = run_script("import reqtt, sys; print(*sys.modules)")
    ours = {"reqtt.cli", "typer", "rich", "pydantic"}
    assert ours.isdisjoint(done.stdout.split()), done.stderr
    assert "reqtt.client" in done.stdout
