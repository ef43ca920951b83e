"""Handlers in groups: the router, and how the handlers of functions, modules and routers are collected.

Owns prefixes, tags and what else a router adds to a specification. What a specification means is in
`reqtt.responder`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, TypeVar, Unpack

from reqtt.lifespan import Lifespan, check_lifespan
from reqtt.responder import (
    ATTRIBUTE,
    Middleware,
    ResponderOptions,
    ResponderSpec,
    check_group,
    check_middleware,
    is_method,
    name_of,
    parse,
    place,
    specifier,
    specs_on,
)

__all__ = ["Router", "collect"]

F = TypeVar("F", bound=Callable[..., Any])


class Router:
    """Handlers under a common prefix, with tags, middleware and a lifespan of their own.

    The functions stay as they are; the router carries the specifications. Routers nest: see `include`.

    Args:
        prefix: goes before each filter, with a `/` between where neither has one. It may hold captures.
        tags: names under which its handlers are listed, see `Discovery`.
        middleware: wraps its handlers, inside that of the `Responder` and of the routers around it; the first
            is outermost.
        lifespan: like that of `Responder`; entered after it, and once, where it has handlers at all.

    Raises:
        TypeError: a prefix or tag that is no str, middleware that cannot be called, a lifespan that is none.
            What is wrong with the whole filter (section 4.7) shows where a handler is added.

    Example:
        site = Router(prefix="site1/", tags=["lights"], middleware=[only_staff])

        @site.responder("cmnd/{device}/power")
        async def power(device: str, body: str) -> str: ...
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        tags: Sequence[str] = (),
        middleware: Sequence[Middleware] = (),
        lifespan: Lifespan | None = None,
    ) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {prefix!r}")
        if isinstance(tags, str):
            raise TypeError(f"tags must be a sequence of names: write [{tags!r}]")
        self.prefix = prefix
        self.tags = tuple(tags)
        for tag in self.tags:
            if not isinstance(tag, str) or not tag:
                raise TypeError(f"a tag must be a name, not {tag!r}")
        self._middleware = tuple(middleware)
        check_middleware(self._middleware)
        check_lifespan(lifespan)
        self._lifespans = () if lifespan is None else (lifespan,)
        self._specs: list[ResponderSpec] = []
        self._included: list[Router] = []

    def __repr__(self) -> str:
        return f"Router(prefix={self.prefix!r})"

    def responder(self, topic_filter: str, **options: Unpack[ResponderOptions]) -> Callable[[F], F]:
        """Like `reqtt.responder`, with the same options, under the prefix of this router.

        Raises what `reqtt.responder` raises.

            @site.responder("cmnd/{device}/power", group="lights")
            async def power(device: str, body: str) -> str: ...
        """
        if not isinstance(topic_filter, str):
            raise TypeError('topic_filter must be a str: write @router.responder("cmnd/{device}/power")')
        specify = specifier(_join(self.prefix, topic_filter), **options)

        def decorate(handler: F) -> F:
            self._specs.append(specify(handler, sys._getframe(1)))
            return handler

        return decorate

    def include(self, *routers: Router) -> None:
        """Put other routers under the prefix of this one, whose captures are found in `request.captures`.

        Raises:
            TypeError: not a router.
            ValueError: a router would include itself.

        Example:
            house = Router(prefix="houses/{house}/")
            house.include(lights, heating)
            Responder("mqtt://localhost", house)
        """
        for router in routers:
            if not isinstance(router, Router):
                raise TypeError(f"include takes routers, not {router!r}")
            if router is self or self in router._below():
                raise ValueError(f"{router!r} would include itself")
            self._included.append(router)

    def _below(self) -> Iterator[Router]:
        for router in self._included:
            yield router
            yield from router._below()

    def specs(self) -> list[ResponderSpec]:
        """The specifications of all handlers, those of included routers too."""
        found = [self._around(spec) for spec in self._specs]
        for router in self._included:
            for spec in router.specs():
                topic_filter = _join(self.prefix, spec.topic_filter)
                mqtt_filter, captures = parse(topic_filter)
                spec = replace(spec, topic_filter=topic_filter, mqtt_filter=mqtt_filter, captures=captures)
                found.append(self._around(spec))
        return found

    def _around(self, spec: ResponderSpec) -> ResponderSpec:
        return replace(
            spec,
            tags=tuple(dict.fromkeys((*self.tags, *spec.tags))),
            middleware=(*self._middleware, *spec.middleware),
            lifespans=(*self._lifespans, *spec.lifespans),
        )


def _join(prefix: str, topic_filter: str) -> str:
    if not prefix or prefix.endswith("/") or topic_filter.startswith("/"):
        return prefix + topic_filter
    return f"{prefix}/{topic_filter}"


# --- collection -----------------------------------------------------------------------------------


def collect(handlers: Any, *, group: str | None = None) -> list[ResponderSpec]:
    """The specifications of functions, methods, modules, routers and objects, and of iterables of them.

    An object stands for its decorated methods, a module for its functions and routers. `group` applies
    to those that name none.

    Raises:
        TypeError: something that is no handler.
        ValueError: two handlers for the same filter and group, or none at all.
    """
    check_group(group)
    found: dict[tuple[str, str | None], ResponderSpec] = {}
    for spec in _specs_in(handlers):
        if spec.group is None and group is not None:
            spec = replace(spec, group=group)
        other = found.setdefault(place(spec), spec)
        if other.handler != spec.handler:
            where = f'"{spec.topic_filter}"' + ("" if spec.group is None else f" in group {spec.group!r}")
            raise ValueError(f"two handlers for {where}: {other.name} and {spec.name}")
    if not found:
        raise ValueError(f"nothing to serve: no @responder in {_describe(handlers)}")
    return list(found.values())


def _specs_in(item: Any) -> Iterator[ResponderSpec]:
    if isinstance(item, Router):
        yield from item.specs()
    elif isinstance(item, ModuleType):
        yield from _specs_in_module(item)
    elif isinstance(item, ResponderSpec):
        yield item
    elif inspect.ismethod(item) and specs_on(item):
        for spec in specs_on(item):
            yield replace(spec, handler=item, also=())
    elif specs_on(item) and not isinstance(item, type):
        yield from _specs_on_function(item)
    elif isinstance(item, str | bytes | dict | type):
        raise TypeError(
            f"{_describe(item)} is no handler: pass functions with @responder, a module or a Router"
        )
    elif isinstance(item, Iterable):
        for member in item:
            yield from _specs_in(member)
    else:
        methods = _methods_of(item)
        if not methods:
            raise TypeError(f'{_describe(item)} is no handler: decorate it with @responder("filter")')
        for method in methods:
            yield from _specs_in(method)


def _specs_on_function(handler: Any) -> Iterator[ResponderSpec]:
    for spec in specs_on(handler):
        if is_method(handler):
            raise TypeError(f"{spec.name} is a method: pass the one of an instance, or the instance")
        yield replace(spec, also=())


def _specs_in_module(module: ModuleType) -> Iterator[ResponderSpec]:
    members = list(vars(module).values())
    routers = [member for member in members if isinstance(member, Router)]
    # A router that is included by another one is served under the other's prefix.
    included = {id(below) for router in routers for below in router._below()}
    for member in members:
        if isinstance(member, Router):
            if id(member) not in included:
                yield from member.specs()
        elif not isinstance(member, type | ModuleType) and isinstance(
            getattr(member, ATTRIBUTE, None), ResponderSpec
        ):
            yield from _specs_in(member)


def _methods_of(item: Any) -> list[Any]:
    names = dict.fromkeys(name for cls in reversed(type(item).__mro__) for name in vars(cls))
    # Looked up on the class first: a property must not run.
    return [getattr(item, name) for name in names if specs_on(getattr(type(item), name, None))]


def _describe(item: Any) -> str:
    if isinstance(item, ModuleType):
        return f"module {item.__name__}"
    if callable(item) and hasattr(item, "__qualname__"):
        return name_of(item)
    return f"{item!r:.80}"
