"""The AsyncAPI document: valid by the published schema, and true of what goes over the wire."""

from __future__ import annotations

import copy
import dataclasses
import enum
import gzip
import html.parser
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pydantic
import pytest

import reqtt
from reqtt import Request, RequestError, Responder, Response, Router, codecs, responder
from reqtt.asyncapi import document, page, render

Factory = Callable[..., Awaitable[Any]]

PUBLISHED = Path(__file__).with_name("data") / "asyncapi-3.0.0.json.gz"


@pytest.fixture(scope="session")
def published() -> jsonschema.Draft7Validator:
    schema = json.loads(gzip.decompress(PUBLISHED.read_bytes()))
    return jsonschema.Draft7Validator(schema)


@pytest.fixture
def check(published: jsonschema.Draft7Validator) -> Callable[[dict[str, Any]], None]:
    def check(made: dict[str, Any]) -> None:
        error = jsonschema.exceptions.best_match(published.iter_errors(made))
        assert error is None, f"{error.json_path}: {error.message:.500}"
        for reference in references(made):
            assert follow(made, reference) is not None, reference
        for name, schema in schemas_of(made):
            jsonschema.Draft7Validator.check_schema(schema)
            assert "prefixItems" not in json.dumps(schema), name

    return check


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def follow(made: dict[str, Any], reference: str) -> Any:
    found: Any = made
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return follow(made, found["$ref"]) if isinstance(found, dict) and "$ref" in found else found


def schemas_of(made: dict[str, Any]) -> list[tuple[str, Any]]:
    components = made["components"]
    payloads = [(name, m["payload"]) for name, m in components["messages"].items() if "payload" in m]
    return payloads + list(components["schemas"].items())


def message(made: dict[str, Any], operation: str, side: str) -> Any:
    entry = made["operations"][operation]
    listed = entry["messages"] if side == "request" else entry["reply"]["messages"]
    return follow(made, listed[-1 if side == "error" else 0]["$ref"])


def validate(made: dict[str, Any], operation: str, side: str, payload: bytes) -> None:
    """Raises unless the payload is what the document says."""
    found = message(made, operation, side)
    content_type = found.get("contentType", "")
    value = json.loads(payload) if content_type.endswith("json") else payload.decode()
    jsonschema.Draft7Validator({**found["payload"], "components": made["components"]}).validate(value)


# --- an application with one of each ------------------------------------------------------------------


class Mode(enum.Enum):
    DAY = "day"
    NIGHT = "night"


class Lamp(msgspec.Struct, tag="lamp"):
    level: Annotated[int, msgspec.Meta(ge=0, le=100)]
    name: str = "lamp"


class Fan(msgspec.Struct, tag="fan"):
    speed: float


@dataclasses.dataclass
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list)
    place: tuple[float, float] | None = None


class Reading(pydantic.BaseModel):
    celsius: float = pydantic.Field(ge=-273.15, alias="temp")
    sensor: Lit


class Lit(pydantic.BaseModel):
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass
class Mixed:
    reading: Reading


class Cbor:
    pass


@responder("cmnd/{device}/power")
async def power(device: str, body: str) -> str:
    """Switch a lamp.

    The words ON and OFF.
    """
    return body


@responder("cmnd/{device}/{mode}/{level}", qos=2, group="lights")
async def mode(device: Literal["lamp", "fan"], mode: Mode, level: int) -> Lamp | Fan:
    return Lamp(level) if device == "lamp" else Fan(level)


@responder("trees/{path:#}")
async def tree(path: str, body: Tree) -> Tree:
    return Tree(path, [body], (1.0, 2.0))


@responder("read/+/now/#")
async def read(body: Reading | None) -> list[Reading]:
    return [body] if body else []


@responder("mixed")
async def mixed(body: Mixed = Mixed(Reading(temp=1, sensor=Lit()))) -> Mixed:  # noqa: B008
    return body


@responder("blob")
async def blob(body: bytes) -> bytes:
    return body


@responder("word")
async def word(body: Annotated[str, msgspec.Meta(max_length=5)]) -> None:
    pass


@responder("free")
async def free(request: Request) -> Response:
    return Response()


@responder("any")
async def anything(body: Any):  # type: ignore[no-untyped-def]
    return body


EVERYTHING = [power, mode, tree, read, mixed, blob, word, free, anything]


@pytest.fixture
def made() -> dict[str, Any]:
    return document(EVERYTHING, title="All", version="1.0.0", servers="mqtt://localhost:1883")


def test_a_document_of_everything_is_valid(made: dict[str, Any], check: Any) -> None:
    check(made)
    assert list(made["operations"]) == [
        *("power", "mode", "tree", "read", "mixed", "blob", "word", "free", "anything")
    ]
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize(
    "path",
    [
        ("info", "version"),
        ("operations", "power", "reply", "address", "location"),
        ("operations", "power", "channel", "$ref"),
        ("servers", "broker", "host"),
    ],
    ids=".".join,
)
def test_the_published_schema_notices_what_is_missing(
    made: dict[str, Any], published: Any, path: tuple[str, ...]
) -> None:
    broken = copy.deepcopy(made)
    *above, last = path
    node = broken
    for part in above:
        node = node[part]
    del node[last]
    assert not published.is_valid(broken)


def test_a_handler_is_an_operation_with_a_reply(made: dict[str, Any]) -> None:
    operation = made["operations"]["power"]
    assert operation["action"] == "receive"
    assert (operation["summary"], operation["description"]) == ("Switch a lamp.", "The words ON and OFF.")
    assert operation["reply"]["address"]["location"] == "$message.header#/responseTopic"
    assert follow(made, operation["reply"]["channel"]["$ref"])["address"] is None
    assert operation["bindings"]["mqtt"]["qos"] == 1
    channel = follow(made, operation["channel"]["$ref"])
    assert (channel["address"], channel["parameters"]) == ("cmnd/{device}/power", {"device": {}})
    request = message(made, "power", "request")
    assert (request["contentType"], request["payload"]) == ("text/plain", {"type": "string"})
    mqtt = request["bindings"]["mqtt"]
    assert mqtt["payloadFormatIndicator"] == 1
    assert {"responseTopic", "correlationData"} < set(mqtt)
    # What the runtime expressions point at is there.
    assert {"responseTopic", "correlationData"} == set(request["headers"]["properties"])
    error = message(made, "power", "error")
    assert error["contentType"] == "application/problem+json"
    assert follow(made, error["payload"]["$ref"])["title"] == "Problem"


def test_captures_and_wildcards_are_parameters(made: dict[str, Any]) -> None:
    addresses = {channel["address"]: channel.get("parameters") for channel in made["channels"].values()}
    assert addresses["cmnd/{device}/{mode}/{level}"] == {
        "device": {"enum": ["lamp", "fan"]},
        "mode": {"enum": ["day", "night"]},
        "level": {"description": "int"},
    }
    assert addresses["trees/{path}"] == {"path": {"description": "All further levels"}}
    assert set(addresses["read/{level2}/now/{rest}"]) == {"level2", "rest"}
    assert made["operations"]["mode"]["bindings"]["mqtt"]["qos"] == 2
    assert made["operations"]["mode"]["x-shared-subscription"] == "lights"


def test_schemas_come_from_the_annotations(made: dict[str, Any]) -> None:
    schemas = made["components"]["schemas"]
    assert schemas["Lamp"]["properties"]["level"] == {"type": "integer", "minimum": 0, "maximum": 100}
    # Pydantic's are by alias, as it reads them.
    assert set(schemas["Reading"]["properties"]) == {"temp", "sensor"}
    # AsyncAPI's discriminator is a name.
    assert message(made, "mode", "response")["payload"]["discriminator"] == "type"
    assert message(made, "blob", "request")["payload"] == {"type": "string", "format": "binary"}
    assert message(made, "word", "request")["payload"] == {"type": "string", "maxLength": 5}
    assert message(made, "word", "response")["payload"] == {"type": "string", "maxLength": 0}
    for operation in ("free", "anything"):
        for side in ("request", "response"):
            assert "payload" not in message(made, operation, side)


def test_types_of_one_name_keep_their_schemas(check: Any) -> None:
    first = msgspec.defstruct("Same", [("a", int)], module="first")
    second = msgspec.defstruct("Same", [("b", int)], module="second")
    third = pydantic.create_model("Same", c=(int, ...))
    problem = msgspec.defstruct("Problem", [("d", int)])
    handlers = []
    for number, kind in enumerate((first, second, third, problem)):

        def handler(body):  # type: ignore[no-untyped-def]
            pass

        handler.__name__ = handler.__qualname__ = f"h{number}"
        handler.__annotations__ = {"body": kind}
        handlers.append(responder(f"t/{number}")(handler))
    made = document(handlers, title="t", version="1")
    check(made)
    fields = [
        next(iter(follow(made, message(made, f"h{number}", "request")["payload"]["$ref"])["properties"]))
        for number in range(4)
    ]
    assert fields == ["a", "b", "c", "d"]
    assert "status" in made["components"]["schemas"]["Problem"]["properties"]


def test_another_codec_is_named(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_registry", [])
    codecs.register("application/cbor", types=[Cbor], encode=lambda value: b"", decode=lambda data: Cbor())

    @responder("t")
    async def cbor(body: Cbor) -> Cbor:
        return body

    made = document(cbor, title="t", version="1")
    check(made)
    assert message(made, "cbor", "request")["contentType"] == "application/cbor"


async def test_the_document_is_true_of_the_wire(
    broker: Any, serving: Factory, raw: Factory, made: dict[str, Any]
) -> None:
    await serving(broker, *EVERYTHING)
    peer = await raw(broker)
    lamp = {"name": "x", "place": [1.5, 2.5]}
    asked = {
        "tree": ("trees/a/b", lamp),
        "read": ("read/1/now/x", {"temp": 20.5, "sensor": {"kind": "b"}}),
        "mixed": ("mixed", {"reading": {"temp": 1, "sensor": {}}}),
        "mode": ("cmnd/fan/day/7", None),
        "power": ("cmnd/lamp/power", "ON"),
    }
    for operation, (where, value) in asked.items():
        payload = b"" if value is None else value if isinstance(value, str) else json.dumps(value)
        if value is not None:
            validate(made, operation, "request", payload.encode())
        response = await peer.request(where, payload)
        found = message(made, operation, "response")
        assert response.properties.get("content_type") == found["contentType"]
        indicator = found["bindings"]["mqtt"]["payloadFormatIndicator"]
        assert response.properties.get("payload_format_indicator") == indicator
        validate(made, operation, "response", response.payload)
    # What the document refuses, the responder refuses, and its answer is in the document again.
    for operation, where, value in (
        ("tree", "trees/a", {"name": 5}),
        ("read", "read/1/now", {"temp": -300, "sensor": {}}),
        ("mixed", "mixed", {"reading": {"temp": "cold"}}),
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate(made, operation, "request", json.dumps(value).encode())
        response = await peer.request(where, json.dumps(value), correlation_data=b"another")
        assert response.user("__stat") == "400"
        validate(made, operation, "error", response.payload)


async def test_an_error_with_code_and_data_is_in_the_document(
    broker: Any, serving: Factory, raw: Factory, topic: str
) -> None:
    @responder(topic)
    async def refuses() -> None:
        raise RequestError(404, "no such lamp", code="E7", data={"lamp": "x"})

    await serving(broker, refuses)
    made = document(refuses, title="t", version="1")
    response = await (await raw(broker)).request(topic)
    validate(made, "refuses", "error", response.payload)
    named = {name for name, _ in response.user_properties}
    assert named <= set(message(made, "refuses", "error")["headers"]["properties"])


async def test_a_responder_gives_its_handlers_and_its_broker(check: Any) -> None:
    router = Router("site/{house}", tags=["home"])

    @router.responder("power")
    async def power(house: str) -> str:
        return house

    discovery = reqtt.Discovery("lights")
    app = Responder("mqtts://user:hunter2@broker.example:8883", router, discovery=discovery)
    made = document(app, title="t", version="1")
    check(made)
    assert list(made["operations"]) == ["power"]
    assert made["operations"]["power"]["tags"] == [{"name": "home"}]
    [channel] = [channel for channel in made["channels"].values() if channel["address"]]
    assert channel["address"] == "site/{house}/power"
    [server] = made["servers"].values()
    assert (server["host"], server["protocol"]) == ("broker.example:8883", "secure-mqtt")


def test_a_password_stays_out(check: Any) -> None:
    servers = {"in the house": "mqtts://user:hunter2@[::1]:8883", "web": "wss://broker.example/mqtt"}
    made = document(power, title="t", version="1", servers=servers)
    check(made)
    assert "hunter2" not in json.dumps(made) + page(made)
    assert made["servers"]["in_the_house"]["host"] == "[::1]:8883"
    assert made["servers"]["in_the_house"]["security"]
    assert made["servers"]["web"] == {
        "host": "broker.example",
        "protocol": "wss",
        "protocolVersion": "5",
        "pathname": "/mqtt",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"title": ""}, "title must be"),
        ({"version": 1}, "version must be"),
        ({"servers": "http://user:hunter2@x"}, "scheme 'http'"),
        ({"servers": "unix:///run/mqtt"}, "scheme 'unix'"),
        ({"servers": "mqtt://"}, "needs a host"),
        ({"servers": ["mqtt://x"]}, "a mapping of names"),
        ({"handlers": []}, "nothing to serve"),
        ({"handlers": len}, "is no handler"),
    ],
    ids=str,
)
def test_what_cannot_be_documented_is_refused(options: dict[str, Any], words: str) -> None:
    handlers = options.pop("handlers", [power])
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        document(handlers, **{"title": "t", "version": "1", **options})
    assert "hunter2" not in str(caught.value)


class _Tags(html.parser.HTMLParser):
    """Every tag is closed, nothing is loaded, and links lead to what is there."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe")
        assert "src" not in found
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.add(str(found["id"]))
        if "href" in found:
            self.links.add(str(found["href"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(made: dict[str, Any]) -> None:
    tags = _Tags()
    tags.feed(page(made))
    assert tags.open == []
    assert tags.links
    assert tags.links <= {f"#{name}" for name in tags.ids}
    assert "@import" not in page(made)
    assert "url(" not in page(made)


def test_the_page_takes_words_as_words() -> None:
    @responder("a/<b>")
    async def evil(body: dict[str, int]) -> None:
        """<script>alert(1)</script> & more"""

    text = render(evil, title="<i>x</i>", description="<img src=x>", form="html")
    tags = _Tags()
    tags.feed(text)
    assert "&lt;script&gt;" in text


def test_render_gives_json_or_a_page() -> None:
    assert json.loads(render(power, title="Lights"))["info"] == {"title": "Lights", "version": "0.0.0"}
    assert render(power, title="Lights", form="html").startswith("<!doctype html>")
    with pytest.raises(ValueError, match="form must be"):
        render(power, title="Lights", form="yaml")  # type: ignore[arg-type]
