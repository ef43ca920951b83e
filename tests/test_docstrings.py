"""Every public name says what it is, and the stub says of a native one what `help()` says."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reqtt
from reqtt import _core, asyncapi, blocking, codecs, correlate, otel, prometheus, testing, timing

MODULES = (reqtt, asyncapi, blocking, codecs, correlate, otel, prometheus, testing, timing)
STUB = Path(reqtt.__file__).with_name("_core.pyi")


def own(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, those of its native base included."""
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "reqtt":
            for name, value in vars(base).items():
                if not name.startswith("_") and (callable(value) or inspect.isdatadescriptor(value)):
                    yield f"{base.__qualname__}.{name}", value


def is_slot(value: object) -> bool:
    """A slot of a dataclass: the class describes its fields."""
    return inspect.ismemberdescriptor(value)


def public() -> Iterator[tuple[str, Any]]:
    for module in MODULES:
        yield module.__name__, module
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                yield from own(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [pytest.param(name, value, id=name) for name, value in sorted(public(), key=lambda it: it[0])],
)
def test_public_name_has_a_docstring(name: str, value: Any) -> None:
    if not is_slot(value):
        # Its own, not one that it inherits or that a dataclass makes up.
        doc = value.__doc__ or ""
        assert doc.strip(), f"{name} has no docstring"
        assert not doc.startswith(f"{name.rpartition('.')[2]}("), f"{name} has only its signature"


def stub_docstrings() -> Iterator[tuple[str, str, object]]:
    """Name, docstring in the stub, and native object."""
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
            yield node.name, doc, getattr(_core, node.name)
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(member, ast.FunctionDef) and (doc := ast.get_docstring(member)):
                assert isinstance(node, ast.ClassDef)
                yield f"{node.name}.{member.name}", doc, getattr(getattr(_core, node.name), member.name)


@pytest.mark.parametrize(
    ("doc", "native"), [pytest.param(doc, native, id=name) for name, doc, native in stub_docstrings()]
)
def test_stub_repeats_the_native_docstring(doc: str, native: object) -> None:
    assert doc == inspect.getdoc(native)


def test_help_shows_the_main_call() -> None:
    doc = inspect.getdoc(reqtt.Requester.request)
    assert doc is not None
    assert doc.startswith("Send a request and await its response")
    parameters = inspect.signature(reqtt.Requester.request).parameters
    assert [name for name in list(parameters)[1:] if f"{name}: " not in doc] == []
