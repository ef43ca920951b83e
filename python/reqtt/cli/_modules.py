"""From `module:name` on a command line to what it stands for."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

from reqtt.cli._exit import CommandError

__all__ = ["load"]


def load(reference: str) -> Any:
    """The module, or the attribute of it that is named. Looks in the current directory first.

    Raises `CommandError` that says where it failed.
    """
    name, colon, attribute = reference.partition(":")
    if name.endswith(".py") or "/" in name:
        raise CommandError(
            f"{reference}: give the name of a module, e.g. {_as_module(name)}{colon}{attribute}"
        )
    if not name or (colon and not attribute):
        raise CommandError(f"{reference!r} is no module[:name]")
    here = os.getcwd()  # noqa: PTH109
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    found: Any = _import(name)
    for part in attribute.split(".") if attribute else ():
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f"{reference}: {name} has no {attribute}") from None
    return found


def _as_module(path: str) -> str:
    return os.path.normpath(path).removesuffix(".py").replace(os.sep, ".").lstrip(".") or "handlers"


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(
                f"there is no module {error.name!r} here ({os.getcwd()}) or on sys.path"  # noqa: PTH109
            ) from None
        raise _failed(name, error) from error
    except CommandError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> CommandError:
    if isinstance(error, SyntaxError) and error.filename is not None:
        where = f"{error.filename}:{error.lineno}"
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
    return CommandError(f"module {name!r} cannot be imported: {type(error).__name__}: {error} ({where})")
