"""Matchers: which message answers a request, where the responder returns no Correlation Data.

    Requester(url, correlation=reqtt.correlate.tasmota())

A matcher knows topics and payloads, and nothing of connections, timeouts or who waits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from reqtt import _core
from reqtt.errors import RequestError

if TYPE_CHECKING:
    import msgspec

    from reqtt._core import Message
else:
    from reqtt import _msgspec as msgspec

__all__ = ["Expected", "Matcher", "json_field", "tasmota", "topic", "zigbee2mqtt"]


@dataclass(frozen=True, slots=True)
class Expected:
    """How the response to one request is known. `Matcher.expect` makes it.

    `topic_filter` is what is subscribed to. Among the requests that wait there, `key` tells this one from the
    others: those with an equal key go one after another. `payload` is sent instead of the request's own,
    unless it is None. `check(message)` has the last word on a message with this key: false lets it pass by,
    a `RequestError` that it raises is the responder's error and reaches the caller as `RemoteError`.

        Expected("state/lamp", check=lambda message: message.text in ("ON", "OFF"))
    """

    topic_filter: str
    key: Hashable = ""
    payload: bytes | None = None
    check: Callable[[Message], bool] | None = None


@runtime_checkable
class Matcher(Protocol):
    """Recognizes responses without Correlation Data (section 4.10.1). Write your own with these two methods.

    Both are called on the event loop for every message, and must not block. One matcher may serve many
    requesters: it holds no state of single requests.

        class Heater:
            def expect(self, topic, payload):
                return Expected(topic.replace("set", "state"))

            def key(self, message):
                return ""
    """

    def expect(self, topic: str, payload: bytes, /) -> Expected:
        """What will answer this request. A `ValueError` refuses a request that nothing would match."""

    def key(self, message: Message, /) -> Hashable | None:
        """The key of the request that `message` may answer; None where it answers none."""


def topic(request: str, response: str) -> Matcher:
    """Whatever arrives on the response topic next is the response.

    Captures of the request's topic may stand in the response's. One request at a time for each response
    topic: nothing in a message says which request it answers, so a response that comes too late is taken for
    that of the next request, and so is a state that the device publishes by itself.

    Raises `InvalidTopic` or `ValueError` where the two do not fit together; `request()` raises `ValueError`
    for a topic that `request` does not match.

        phone = Requester(url, correlation=topic("cmnd/{device}/power", "state/{device}/power"))
        response = await phone.request("cmnd/light-in-bedroom/power", "ON")
    """
    return _Topic(_Route(request, response))


def json_field(
    field: str, *, request: str | None = None, response: str | None = None, error: str | None = None
) -> Matcher:
    """The response is JSON, and carries the same value in `field` as the request.

    The request's payload has to be a JSON object, or empty. Where it has no such field, one is put in: 16
    unguessable characters. Any number of requests may be under way. `request` and `response` are topics as in
    `topic()`; without them the last level `request` of the request's topic is `response` in the response's.
    A response with something in the field `error` is a `RemoteError` with status 500.

    Raises `ValueError` here where the topics do not fit together; `request()` raises it for a payload that is
    no JSON object, or a topic that does not match.

        req = Requester(url, correlation=json_field("transaction"))
        response = await req.request("zigbee2mqtt/bridge/request/device/rename", {"from": "a", "to": "b"})
    """
    if (request is None) != (response is None):
        raise ValueError("json_field() takes request= and response= together, or none of them")
    route = _request_to_response if request is None or response is None else _Route(request, response)
    return _JsonField(field, route, error)


def zigbee2mqtt(base: str = "zigbee2mqtt") -> Matcher:
    """Zigbee2MQTT's bridge: `<base>/bridge/request/...`, matched by `transaction` in the JSON.

    An answer with an `error` is a `RemoteError` with status 500; its `response` has the whole answer.

        req = Requester(url, correlation=zigbee2mqtt())
        response = await req.request("zigbee2mqtt/bridge/request/permit_join", {"time": 60})
        print(response.json()["data"])
    """
    return json_field(
        "transaction",
        request=f"{base}/bridge/request/{{command:#}}",
        response=f"{base}/bridge/response/{{command:#}}",
        error="error",
    )


def tasmota(full_topic: str = "%prefix%/%topic%/") -> Matcher:
    """Tasmota's commands: `cmnd/<device>/POWER`, answered as JSON on `stat/<device>/RESULT`.

    `full_topic` is the device's FullTopic. The answer has to name the command; `Status` is awaited on
    `stat/<device>/STATUS...`. One command at a time for each device: the answers do not say which one they
    belong to, and one that comes too late may be taken for that of the same command again. An unknown command
    is `NotFound`, a refused one `BadRequest`. `Backlog` has no answer of its own, and is refused here.

    Raises `ValueError` for a `full_topic` without its two parts; `request()` raises it for a topic that is no
    command's.

        req = Requester(url, correlation=tasmota())
        response = await req.request("cmnd/light-in-bedroom/POWER", "ON", timeout=2)
        print(response.json()["POWER"])
    """
    return _Tasmota(full_topic)


class _Route:
    """From a request's topic to its response's, by captures."""

    def __init__(self, request: str, response: str) -> None:
        self._filter, names = _core.parse_filter(request)
        # Wildcards without a name may stand in the response: it is subscribed to.
        _, wanted = _core.parse_filter(response)
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(f'"{response}" needs {{{unknown[0]}}}, which "{request}" does not capture')
        self._request = request.split("/")
        self._response = response.split("/")
        self._pattern = request

    def __call__(self, topic: str) -> str:
        if not _core.topic_matches(self._filter, topic):
            raise ValueError(
                f'"{topic}" is no request that this matcher knows: it has to match "{self._pattern}"'
            )
        levels = topic.split("/")
        captured = {}
        for index, level in enumerate(self._request):
            if level.startswith("{"):
                rest = level.endswith(":#}")
                captured[_name(level)] = "/".join(levels[index:]) if rest else levels[index]
        return "/".join(
            captured[_name(level)] if level.startswith("{") else level for level in self._response
        )


def _name(level: str) -> str:
    return level[1:-1].partition(":")[0]


def _request_to_response(topic: str) -> str:
    levels = topic.split("/")
    for index in reversed(range(len(levels))):
        if levels[index] == "request":
            return "/".join([*levels[:index], "response", *levels[index + 1 :]])
    raise ValueError(
        f'"{topic}" has no level "request", so nothing says where its response comes:'
        " give json_field() request= and response="
    )


def _object(payload: bytes) -> dict[str, Any] | None:
    """The JSON object that a payload is, if it is one."""
    try:
        found = msgspec.json.decode(payload)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class _Topic:
    def __init__(self, route: Callable[[str], str]) -> None:
        self._route = route

    def expect(self, topic: str, payload: bytes, /) -> Expected:
        return Expected(self._route(topic))

    def key(self, message: Message, /) -> Hashable | None:
        return ""


class _JsonField:
    def __init__(self, field: str, route: Callable[[str], str], error: str | None) -> None:
        self._field = field
        self._route = route
        self._error = error

    def expect(self, topic: str, payload: bytes, /) -> Expected:
        topic_filter = self._route(topic)
        body = _object(payload) if payload else {}
        if body is None:
            raise ValueError(
                f'the payload for "{topic}" is no JSON object, so it cannot carry "{self._field}":'
                ' send an object, e.g. {"id": "lamp"}'
            )
        check = self._refused if self._error is not None else None
        if self._field in body:
            key = body[self._field]
            if not _is_key(key):
                raise ValueError(f'"{self._field}" has to be text or a whole number')
            return Expected(topic_filter, key, check=check)
        import secrets  # It takes 2 ms, and few need it.

        key = body[self._field] = secrets.token_urlsafe(12)
        return Expected(topic_filter, key, msgspec.json.encode(body), check)

    def key(self, message: Message, /) -> Hashable | None:
        body = _object(message.payload)
        key: Hashable = None if body is None else body.get(self._field)
        return key if _is_key(key) else None

    def _refused(self, message: Message) -> bool:
        error = (_object(message.payload) or {}).get(self._error or "")
        if error:
            raise RequestError(500, error if isinstance(error, str) else "the responder says so", data=error)
        return True


def _is_key(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


class _Tasmota:
    def __init__(self, full_topic: str) -> None:
        self._levels = full_topic.rstrip("/").split("/")
        if self._levels.count("%prefix%") != 1 or self._levels.count("%topic%") != 1:
            raise ValueError(
                f"full_topic={full_topic!r} needs the levels %prefix% and %topic%, as on the device"
            )

    def expect(self, topic: str, payload: bytes, /) -> Expected:
        *levels, command = topic.split("/")
        if len(levels) != len(self._levels) or not command or not all(map(_fits, self._levels, levels)):
            example = "/".join(self._levels).replace("%prefix%", "cmnd").replace("%topic%", "lamp")
            raise ValueError(f'"{topic}" is no command for Tasmota: it looks like "{example}/POWER"')
        name = command.lower()
        if name.startswith("backlog"):
            raise ValueError(
                "Backlog has no answer of its own: publish it, or request its last command by itself"
            )
        levels[self._levels.index("%prefix%")] = "stat"
        if name != "status":
            return Expected("/".join([*levels, "RESULT"]), check=lambda message: _answers(name, message))
        number = payload.decode(errors="replace").strip()
        last = f"STATUS{number}" if number.isdecimal() and number != "0" else "STATUS"
        return Expected("/".join([*levels, last]))

    def key(self, message: Message, /) -> Hashable | None:
        return ""


def _fits(pattern: str, level: str) -> bool:
    return (
        level == "cmnd"
        if pattern == "%prefix%"
        else bool(level)
        if pattern == "%topic%"
        else level == pattern
    )


# The few whose answer has another name.
_NAMES = {"template": "name"}


def _answers(command: str, message: Message) -> bool:
    body = _object(message.payload)
    if body is None:
        return False
    if body.get("Command") == "Unknown":
        raise RequestError(404, f"unknown command {command}")
    if body.get("Command") == "Error":
        raise RequestError(400, f"the device refuses {command}")
    for name, value in body.items():
        if _same(_NAMES.get(command, command), name.lower()):
            if value == "Error":
                raise RequestError(400, f"the device refuses {command}")
            return True
    return False


def _same(asked: str, answered: str) -> bool:
    """`POWER` is answered as POWER1 where there are several relays, `Power1` as POWER where there is one."""
    bare = asked.rstrip("0123456789")
    number = answered.removeprefix(bare)
    if asked == answered or bare == answered:
        return True
    # POWER0 is all of them.
    return asked in (bare, f"{bare}0") and number != answered and number.isdecimal()
