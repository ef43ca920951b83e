"""One contract for both sides: the typed call, and the handler that is checked against it."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cbor2
import msgspec
import pydantic
import pytest

import reqtt
from reqtt import RequestError, Retry, codecs, operation
from reqtt._core import Call
from reqtt.operation import Declared
from reqtt.responder import ResponderSpec
from support import shown
from support.packets import PUBLISH
from support.proxy import Proxy

Factory = Callable[..., Awaitable[Any]]


@dataclass
class Power:
    on: bool


@dataclass
class State:
    device: str
    on: bool


class Model(pydantic.BaseModel):
    level: int = pydantic.Field(ge=0)


class Room(enum.Enum):
    HALL = "hall"


NUMBER = uuid.UUID(int=7)


@pytest.fixture
def cbor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(codecs, "_registry", list(codecs._registry))
    codecs.register("application/cbor", encode=cbor2.dumps, decode=cbor2.loads)
    yield
    codecs._encoder_under.cache_clear()


@pytest.fixture
def set_power(topic: str) -> Any:
    return operation(f"{topic}/{{device}}/power", request=Power, response=State)


def spec(handler: Any) -> ResponderSpec:
    found: ResponderSpec = handler.__reqtt_responder__
    return found


async def test_both_sides_of_a_contract(
    broker: Any, requester: Factory, serving: Factory, set_power: Any
) -> None:
    @set_power.responder
    async def power(device: str, body: Power) -> State:
        return State(device, body.on)

    await serving(broker, power)
    req = await requester(broker)
    call = set_power(req, device="lamp", body=Power(True))
    assert isinstance(call, Call)
    assert await call == State("lamp", True)
    assert await power("lamp", Power(False)) == State("lamp", False)


async def test_a_declaration_gives_the_signature(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    @operation(f"{topic}/{{room}}/{{number}}", request=Power, response=State)
    async def set_power(room: Room, number: int, body: Power = Power(True)) -> State:  # noqa: B008
        """Switches it."""
        raise NotImplementedError

    @set_power.responder(group="lights", concurrency=2)
    def power(number, room, body):
        return State(f"{room.name} {number!r}", body.on)

    assert (spec(power).group, spec(power).concurrency) == ("lights", 2)
    await serving(broker, power)
    req = await requester(broker)
    assert await set_power(req, Room.HALL, 3, Power(False)) == State("HALL 3", False)
    assert await set_power(req, number=3, room=Room.HALL) == State("HALL 3", True)
    assert (set_power.__name__, set_power.__doc__) == ("set_power", "Switches it.")
    with pytest.raises(TypeError, match="number"):
        set_power(req, Room.HALL)


async def test_a_declaration_alone_says_the_types(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    @operation(f"{topic}/read")
    async def read() -> list[int]: ...

    @operation(f"{topic}/reset/{{rest:#}}")
    async def reset(rest: str, ids: list[int]) -> None: ...

    resets: list[Any] = []

    @read.responder
    async def reading() -> list[int]:
        return [1, 2]

    @reset.responder
    async def resetting(rest: str, body: list[int]) -> None:
        resets.append((rest, body))

    await serving(broker, reading, resetting)
    req = await requester(broker)
    assert await read(req) == [1, 2]
    assert await reset(req, "a/b", ids=[3]) is None
    assert resets == [("a/b", [3])]


async def test_without_types_there_is_no_body_and_the_response_comes_as_it_is(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    ping = operation(f"{topic}/ping")

    @ping.responder
    async def pong() -> reqtt.Response:
        return reqtt.Response("pong", user_properties={"a": "b"})

    await serving(broker, pong)
    req = await requester(broker)
    response = await ping(req)
    assert (response.text, response.user_properties) == ("pong", (("a", "b"),))
    with pytest.raises(TypeError, match="no body"):
        ping(req, body="x")


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("lamp", "lamp"),
        ("a b", "a b"),
        (3, "3"),
        (-3, "-3"),
        (True, "true"),
        (NUMBER, str(NUMBER)),
        (Room.HALL, "hall"),
    ],
)
def test_a_capture_goes_into_the_topic_as_a_handler_reads_it(value: Any, level: str) -> None:
    assert operation("a/{x}/b").topic(x=value) == f"a/{level}/b"


@pytest.mark.parametrize("value", ["a/b", "+", "#", "a+", "a\0b", "", "\ud800"], ids=repr)
async def test_a_capture_cannot_change_the_topic(
    loopback: Any, requester: Factory, set_power: Any, value: str
) -> None:
    req = await requester(loopback)
    with pytest.raises(ValueError) as caught:
        set_power(req, device=value, body=Power(True))
    if value != "\ud800":
        assert isinstance(caught.value, reqtt.InvalidTopic)
        assert "device" in str(caught.value)
    assert req.client.stats().requests == 0


def test_a_capture_of_the_rest_may_have_levels_and_no_wildcards() -> None:
    anything = operation("a/{rest:#}")
    assert anything.topic(rest="b/c") == "a/b/c"
    for wrong in ("b/#", "+/c", ""):
        with pytest.raises(reqtt.InvalidTopic, match="rest"):
            anything.topic(rest=wrong)


@pytest.mark.parametrize(
    ("captures", "says"),
    [
        ({}, "'device' is missing"),
        ({"device": "lamp", "room": "hall"}, "'room' is none"),
        ({"device": 1.5}, "device must be a str, int, UUID or Enum, not float"),
        ({"device": None}, "not NoneType"),
    ],
    ids=str,
)
def test_captures_are_those_of_the_topic(set_power: Any, captures: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        set_power.topic(**captures)


@pytest.mark.parametrize("body", [None, {"on": True}, "ON", State("lamp", True)], ids=repr)
async def test_a_body_of_another_type_is_not_sent(
    loopback: Any, requester: Factory, set_power: Any, body: Any
) -> None:
    req = await requester(loopback)
    with pytest.raises(TypeError, match="body must be Power"):
        set_power(req, device="lamp", body=body)
    with pytest.raises(TypeError, match="takes the requester first"):
        set_power("lamp", body=Power(True))
    assert req.client.stats().requests == 0


def test_a_handler_that_breaks_the_contract_is_refused_at_its_decorator(set_power: Any) -> None:
    async def another_body(device: str, body: State) -> State: ...
    async def another_result(device: str, body: Power) -> Power: ...
    async def no_body(device: str) -> State: ...
    async def no_such_capture(lamp: str, body: Power) -> State: ...

    for handler, says in (
        (another_body, "'body' is State, and .* says Power"),
        (another_result, "returns Power, and .* says State"),
        (no_body, "takes no body: .* needs `body: Power`"),
        (no_such_capture, "nothing fills argument 'lamp'"),
    ):
        with pytest.raises(TypeError, match=says):
            set_power.responder(handler)
    with pytest.raises(TypeError, match=r"nothing fills 'body': .* has no body"):
        operation("a").responder(lambda body: body)
    with pytest.raises(ValueError, match="concurrency"):
        set_power.responder(concurrency=0)(another_body)


def test_a_handler_may_leave_things_unsaid_or_take_the_request(set_power: Any) -> None:
    @set_power.responder
    def unsaid(body):
        return State("lamp", body.on)

    @set_power.responder
    def whole(request: reqtt.Request) -> reqtt.Response:
        return reqtt.Response(request.payload)

    assert spec(unsaid).arguments[0].annotation is Power
    assert spec(unsaid).returns is State
    assert spec(whole).returns is reqtt.Response


def test_the_types_of_captures_are_part_of_a_declared_contract() -> None:
    @operation("room/{number}")
    async def read(number: int) -> str: ...

    async def text(number: str) -> str: ...

    with pytest.raises(TypeError, match=r"'number' is str, and .* says int"):
        read.responder(text)


def test_a_declaration_that_contradicts_itself_is_refused() -> None:
    async def read(number: int, body: Power) -> State: ...

    for contract, says in (
        (operation("room"), "nothing fills argument|'number'"),
        (operation("{number}/{other}"), "'other'"),
        (operation("{number}", request=State), "its body is Power, and .* says State"),
        (operation("{number}", response=Power), "its result is State, and .* says Power"),
    ):
        with pytest.raises(TypeError, match=says):
            contract(read)
    assert isinstance(operation("{number}", request=Power, response=State)(read), Declared)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        (("a/+",), {}, reqtt.InvalidTopic, "name it"),
        (("a/#",), {}, reqtt.InvalidTopic, "name it"),
        (("a/{x",), {}, reqtt.InvalidTopic, "x"),
        (("",), {}, reqtt.InvalidTopic, "invalid topic"),
        (("{body}",), {}, reqtt.InvalidTopic, "body"),
        ((3,), {}, TypeError, "must be a str"),
        (("a",), {"qos": 3}, ValueError, "qos"),
        (("a",), {"timeout": 0}, ValueError, "timeout"),
        (("a",), {"retry": 3}, TypeError, "retry"),
        (("a",), {"colour": 3}, TypeError, "no option 'colour'"),
        (("a",), {"request": object()}, TypeError, "object"),
        (("a",), {"request": Power, "content_type": "application/x-none"}, ValueError, "codecs.register"),
        (("a",), {"response": Power, "content_type": "application/x-none"}, ValueError, "codecs.register"),
    ],
    ids=shown,
)
def test_a_wrong_operation_is_refused_where_it_is_declared(
    arguments: Any, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        operation(*arguments, **options)


async def test_options_are_for_each_request(
    broker: Any, make_proxy: Factory, requester: Factory, serving: Factory, topic: str
) -> None:
    ask = operation(topic, request=str, response=str, qos=0, timeout=3, user_properties={"a": "b"})
    runs = 0

    @ask.responder(group="g")
    async def answer(body: str) -> str:
        nonlocal runs
        runs += 1
        if body == "busy":
            raise RequestError(503, "busy")
        return body

    assert (spec(answer).qos, spec(answer).group) == (0, "g")
    proxy: Proxy = await make_proxy(broker)
    await serving(broker, answer)
    req = await requester(proxy)
    assert await ask(req, body="x") == "x"
    assert await ask.options(qos=1, timeout=5)(req, body="y") == "y"
    first, second = (record.packet for record in proxy.up(PUBLISH, topic))
    assert (first.qos, first.properties["message_expiry_interval"], first.user("a")) == (0, 3, "b")
    assert (second.qos, second.properties["message_expiry_interval"], second.user("a")) == (1, 5, "b")
    runs = 0
    with pytest.raises(reqtt.RemoteUnavailable):
        await ask.options(retry=Retry(attempts=3, backoff=0.01))(req, body="busy")
    assert runs == 3
    with pytest.raises(TypeError, match="no option 'topic'"):
        ask.options(topic="x")


async def test_what_does_not_validate_names_the_field(
    broker: Any, requester: Factory, serving: Factory, raw: Factory, topic: str
) -> None:
    measure = operation(topic, request=Model, response=Model)

    @measure.responder
    async def wrong(request: reqtt.Request) -> reqtt.Response:
        return reqtt.Response({"level": -1})

    app = await serving(broker, wrong)
    req = await requester(broker)
    with pytest.raises(reqtt.DecodeError, match=r"greater than or equal to 0 - at `\$\.level`"):
        await measure(req, body=Model(level=1))
    await app.close()

    @measure.responder
    async def right(body: Model) -> Model:
        return body

    await serving(broker, right)
    assert await measure(req, body=Model(level=1)) == Model(level=1)
    with pytest.raises(reqtt.BadRequest, match=r"at `\$\.level`"):
        await req.request(topic, {"level": "high"})


@pytest.mark.parametrize("kind", [Power, Model, dict[str, Any]], ids=str)
@pytest.mark.parametrize("content_type", ["application/msgpack", "application/cbor", "application/x+json"])
async def test_the_content_type_chooses_the_codec_of_both_directions(
    broker: Any,
    make_proxy: Factory,
    requester: Factory,
    serving: Factory,
    topic: str,
    cbor: None,
    kind: Any,
    content_type: str,
) -> None:
    echo = operation(topic, request=kind, response=kind, content_type=content_type)

    @echo.responder
    async def same(body):
        assert isinstance(body, kind if isinstance(kind, type) and kind in (Power, Model) else dict)
        return body

    proxy: Proxy = await make_proxy(broker)
    await serving(broker, same)
    req = await requester(proxy)
    body = {Power: Power(True), Model: Model(level=3)}.get(kind, {"a": [1, None]})
    assert await echo(req, body=body) == body
    request, response = proxy.up(PUBLISH, topic)[0].packet, proxy.down(PUBLISH)[0].packet
    read = {
        "application/msgpack": msgspec.msgpack.decode,
        "application/cbor": cbor2.loads,
        "application/x+json": msgspec.json.decode,
    }[content_type]
    for packet in (request, response):
        assert packet.properties["content_type"] == content_type
        assert read(packet.payload) == msgspec.to_builtins(body, enc_hook=lambda model: model.model_dump())


async def test_a_request_without_a_contract_has_the_same_codecs(
    broker: Any, requester: Factory, serving: Factory, topic: str
) -> None:
    @reqtt.responder(topic)
    async def echo(request: reqtt.Request, body: Power) -> reqtt.Response:
        return reqtt.Response(body, content_type="application/msgpack")

    await serving(broker, echo)
    req = await requester(broker)
    for _ in range(2):
        response = await req.request(topic, Power(True), content_type="application/msgpack")
        assert response.payload == msgspec.msgpack.encode(Power(True))
        assert response.decode(Power) == Power(True)
    with pytest.raises(ValueError, match=r'no codec for Content Type "application/x-none".*codecs.register'):
        req.request(topic, Power(True), content_type="application/x-none")
    # Bytes and text are what their sender says.
    with pytest.raises(reqtt.UnsupportedContentType):
        await req.request(topic, "<a/>", content_type="application/x-none")
