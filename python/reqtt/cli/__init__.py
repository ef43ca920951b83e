"""The command `reqtt`: one module for each of its commands. Nothing of it is loaded by `import reqtt`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_NEEDS = ("rich", "typer", "pydantic", "shellingham")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (default: `sys.argv[1:]`), and gives its exit code.

    0 ok, 1 the responder answered with an error, 2 usage, 3 timeout, 4 nobody subscribes, 5 connection, 130
    interrupted.
    """
    try:
        from reqtt.cli._app import run

        return run(arguments)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDS:
            raise
        sys.stderr.write(
            f"reqtt: the command line needs {error.name}, which is not installed: pip install 'reqtt[cli]'\n"
        )
        return 2
