"""Which codec an annotation or a value chooses, and what happens when a payload does not fit."""

import dataclasses
import datetime
import enum
import json
import typing
import uuid

import msgspec
import pydantic
import pytest

from reqtt import codecs
from reqtt.errors import DecodeError


@dataclasses.dataclass
class Lamp:
    name: str
    level: int = 0


class Reading(msgspec.Struct):
    value: float
    at: datetime.datetime | None = None


class Options(typing.TypedDict):
    fast: bool


class Color(enum.Enum):
    RED = "red"


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(codecs, "_registry", [])
    yield
    for cache in (
        codecs._encoder_of,
        codecs._encoder_under,
        codecs._compiled_encoder,
        codecs._compiled_decoder,
    ):
        cache.cache_clear()


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (b"\x00\xff", (b"\x00\xff", None, None)),
        (bytearray(b"a"), (b"a", None, None)),
        (memoryview(b"abcd")[::2], (b"ac", None, None)),
        ("grün", ("grün".encode(), "text/plain", 1)),
        (None, (b"", None, None)),
        ({"a": 1}, (b'{"a":1}', "application/json", 1)),
        ([1, "x", None], (b'[1,"x",null]', "application/json", 1)),
        (3, (b"3", "application/json", 1)),
        (1.5, (b"1.5", "application/json", 1)),
        (True, (b"true", "application/json", 1)),
        (Lamp("x"), (b'{"name":"x","level":0}', "application/json", 1)),
        (Reading(1.0), (b'{"value":1.0,"at":null}', "application/json", 1)),
        (Color.RED, (b'"red"', "application/json", 1)),
        (uuid.UUID(int=1), (b'"00000000-0000-0000-0000-000000000001"', "application/json", 1)),
    ],
)
def test_value_chooses_the_codec(value, encoded):
    assert codecs.encode(value) == encoded
    assert type(codecs.encode(value)[0]) is bytes


@pytest.mark.parametrize("value", [object(), {("a", 1): 2}, "\ud800", {"a": "\ud800"}])
def test_value_that_no_codec_takes_is_a_type_or_value_error(value):
    with pytest.raises((TypeError, ValueError)):
        codecs.encode(value)


def test_value_that_contains_itself_is_a_value_error():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="within itself"):
        codecs.encode(value)


@pytest.mark.parametrize(
    ("annotation", "value", "encoded"),
    [
        (str, "x", (b"x", "text/plain", 1)),
        (bytes, b"x", (b"x", None, None)),
        (str | None, "x", (b"x", "text/plain", 1)),
        (str | None, None, (b"", None, None)),
        (dict, {"a": 1}, (b'{"a":1}', "application/json", 1)),
        (str | int, "x", (b'"x"', "application/json", 1)),
        (typing.Literal["on"], "on", (b'"on"', "application/json", 1)),
        (bytes | dict, b"x", (b"x", None, None)),
        (bytes | dict, {}, (b"{}", "application/json", 1)),
        (typing.Any, "x", (b"x", "text/plain", 1)),
        (dict, b'{"a":1}', (b'{"a":1}', None, None)),
        (str, 3, (b"3", "application/json", 1)),
        (Lamp | None, None, (b"", None, None)),
    ],
)
def test_return_annotation_chooses_the_codec(annotation, value, encoded):
    assert codecs.encoder_for(annotation)(value) == encoded


@pytest.mark.parametrize(
    ("annotation", "payload", "value"),
    [
        (bytes, b"\xff", b"\xff"),
        (bytearray, b"a", bytearray(b"a")),
        (memoryview, b"a", memoryview(b"a")),
        (str, "grün".encode(), "grün"),
        (str, b"", ""),
        (int, b"3", 3),
        (dict, b'{"a":1}', {"a": 1}),
        (dict[str, int], b'{"a":1}', {"a": 1}),
        (list[int], b"[1]", [1]),
        (Lamp, b'{"name":"x"}', Lamp("x")),
        (Reading, b'{"value":1}', Reading(1.0)),
        (Options, b'{"fast":true}', {"fast": True}),
        (Color, b'"red"', Color.RED),
        (typing.Literal["a", "b"], b'"a"', "a"),
        (int | str, b'"x"', "x"),
        (typing.Any, b"[1]", [1]),
        (object, b"[1]", [1]),
        (datetime.date, b'"2024-02-29"', datetime.date(2024, 2, 29)),
        (None, b"null", None),
        (None, b"", None),
        (dict | None, b"", None),
        (dict | None, b"{}", {}),
        (str | None, b"", None),
        (bytes | None, b"", None),
        (typing.Optional[Lamp], b"null", None),  # noqa: UP045
        (typing.Annotated[int, msgspec.Meta(ge=1)], b"1", 1),
        (typing.Annotated[str, msgspec.Meta(max_length=3)], b"abc", "abc"),
    ],
)
def test_annotation_chooses_the_codec(annotation, payload, value):
    assert codecs.decode(payload, annotation) == value


@pytest.mark.parametrize(
    ("annotation", "payload", "where"),
    [
        (Lamp, b'{"name":1}', "$.name"),
        (Lamp, b"{}", "name"),
        (list[Lamp], b'[{"name":"x","level":"y"}]', "$[0].level"),
        (int, b'"x"', "int"),
        (dict, b"", "empty"),
        (dict, b"{", "truncated"),
        (str, b"\xff", "UTF-8"),
        (dict, b'{"a":"\xff"}', "UTF-8"),
        (typing.Any, b"[" * 100_000, "deeply"),
        (typing.Annotated[int, msgspec.Meta(ge=1)], b"0", ">= 1"),
        (typing.Annotated[str, msgspec.Meta(max_length=3)], b"abcd", "<= 3"),
    ],
)
def test_payload_that_does_not_fit_is_a_decode_error_that_says_where(annotation, payload, where):
    with pytest.raises(DecodeError) as caught:
        codecs.decode(payload, annotation)
    assert where in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("annotation", [Color, typing.Literal["a"], dict[str, Color]])
def test_decode_error_does_not_quote_the_payload(annotation):
    payload = b'{"k":"hunter2 - at `$.x`"}' if annotation == dict[str, Color] else b'"hunter2"'
    with pytest.raises(DecodeError) as caught:
        codecs.decode(payload, annotation)
    assert "hunter2" not in str(caught.value)
    assert "Invalid enum value" in str(caught.value)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.lamp+json",
        "text/json",
    ],
)
def test_json_is_read_under_every_name_of_json(content_type):
    assert codecs.decode(b"[1]", list, content_type) == [1]


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "TEXT/plain;charset=utf-8", "text/html"])
def test_text_is_read_under_every_text_type(content_type):
    assert codecs.decode(b"x", str, content_type) == "x"


@pytest.mark.parametrize("content_type", [None, "application/json", "image/png", "nonsense"])
def test_bytes_take_any_content_type(content_type):
    assert codecs.decode(b"x", bytes, content_type) == b"x"


@pytest.mark.parametrize(
    ("annotation", "content_type"),
    [
        (dict, "text/plain"),
        (dict, "application/xml"),
        (Lamp, "application/octet-stream"),
        (str, "application/json"),
        (str, "application/octet-stream"),
        (dict, "x" * 10_000),
    ],
)
def test_content_type_that_contradicts_the_annotation_is_a_mismatch(annotation, content_type):
    with pytest.raises(codecs.ContentTypeMismatch) as caught:
        codecs.decode(b"{}", annotation, content_type)
    assert len(str(caught.value)) < 200
    with pytest.raises(codecs.RequestDecodeError) as answered:
        codecs.decode_request(b"{}", annotation, content_type)
    assert answered.value.status == 415


def test_request_payload_that_does_not_fit_is_a_400():
    with pytest.raises(codecs.RequestDecodeError) as caught:
        codecs.decode_request(b"{", dict)
    assert caught.value.status == 400


@pytest.mark.parametrize("content_type", ["application/msgpack", "application/x-msgpack"])
def test_messagepack_is_read_where_the_message_says_so(content_type):
    payload = msgspec.msgpack.encode({"name": "x", "level": 3})
    assert codecs.decode(payload, Lamp, content_type) == Lamp("x", 3)
    with pytest.raises(DecodeError):
        codecs.decode(b"\xc1", Lamp, content_type)


@pytest.mark.parametrize("annotation", [type("Socket", (), {}), list[type("Socket", (), {})]])
def test_type_without_codec_is_a_type_error_at_compile_time(annotation):
    with pytest.raises(TypeError, match="no codec for"):
        codecs.compile_decoder(annotation)


def test_union_with_bytes_is_refused():
    with pytest.raises(TypeError, match="ambiguous"):
        codecs.compile_decoder(bytes | dict)


def test_decoder_is_compiled_once():
    assert codecs.compile_decoder(Lamp) is codecs.compile_decoder(Lamp)
    assert codecs.compile_decoder(typing.Annotated[int, []])(b"1", None, None) == 1


class Vector:
    def __init__(self, *parts):
        self.parts = parts

    @classmethod
    def load(cls, data):
        return cls(*(int(part) for part in data.decode().split("|")))

    def dump(self):
        return "|".join(map(str, self.parts)).encode()


def test_registered_type_goes_by_its_own_content_type(registry):
    codecs.register("application/x-vector", types=[Vector], encode=Vector.dump, decode=Vector.load)
    assert codecs.encode(Vector(1, 2)) == (b"1|2", "application/x-vector", None)
    assert codecs.compile_encoder(Vector)(Vector(1)) == (b"1", "application/x-vector", None)
    for content_type in (None, "application/x-vector", "APPLICATION/X-Vector; v=1"):
        assert codecs.decode(b"1|2", Vector, content_type).parts == (1, 2)
    with pytest.raises(codecs.ContentTypeMismatch):
        codecs.decode(b"1|2", Vector, "application/json")
    with pytest.raises(DecodeError) as caught:
        codecs.decode(b"hunter2", Vector)
    assert "hunter2" not in str(caught.value)
    assert codecs.decode(b"", Vector | None) is None


def test_registered_content_type_is_converted_to_the_annotation(registry):
    codecs.register(
        "application/x-pairs", encode=json.dumps, decode=lambda data: dict([data.decode().split("=")])
    )
    assert codecs.decode(b"name=x", Lamp, "application/x-pairs") == Lamp("x")
    assert codecs.decode(b"name=x", dict, "application/x-pairs") == {"name": "x"}
    with pytest.raises(DecodeError, match="level"):
        codecs.decode(b"level=x", Lamp, "application/x-pairs")
    with pytest.raises(DecodeError, match="no valid application/x-pairs"):
        codecs.decode(b"nothing", Lamp, "application/x-pairs")


def test_latest_registration_wins(registry):
    codecs.encode(Lamp("x"))
    codecs.register("application/x-a", types=[Lamp], encode=lambda lamp: b"a", decode=lambda data: Lamp("a"))
    assert codecs.encode(Lamp("x"))[0] == b"a"
    codecs.register("application/x-b", types=[Lamp], encode=lambda lamp: b"b", decode=lambda data: Lamp("b"))
    assert codecs.encode(Lamp("x"))[0] == b"b"
    assert codecs.decode(b"", Lamp) == Lamp("b")
    assert codecs.decode(b"", Lamp, "application/x-a") == Lamp("a")
    assert codecs.decode(b'{"name":"j"}', Lamp, "application/json") == Lamp("j")


@pytest.mark.parametrize(
    ("content_type", "options", "error"),
    [
        ("", {}, ValueError),
        ("cbor", {}, ValueError),
        ("a/b", {"payload_format_indicator": 2}, ValueError),
        ("a/b", {"types": ["x"]}, TypeError),
        ("a/b", {"decode": None}, TypeError),
    ],
)
def test_register_checks_its_arguments(registry, content_type, options, error):
    with pytest.raises(error):
        codecs.register(content_type, **{"encode": bytes, "decode": bytes, **options})


class Room(pydantic.BaseModel):
    name: str
    level: int = pydantic.Field(default=0, ge=0, alias="lvl")


@pydantic.dataclasses.dataclass
class Door:
    width: int


@dataclasses.dataclass
class House:
    room: Room


@pytest.mark.parametrize("content_type", ["application/msgpack", "application/x-msgpack", "a/b+msgpack"])
def test_content_type_chooses_messagepack(content_type):
    value = Reading(1.5, datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
    payload, said, indicator = codecs.encode(value, content_type)
    assert (payload, said, indicator) == (msgspec.msgpack.encode(value), content_type, None)
    assert codecs.decode(payload, Reading, said) == value


def test_content_type_chooses_json_under_any_of_its_names():
    assert codecs.encode(Lamp("a"), "application/x+json") == (
        b'{"name":"a","level":0}',
        "application/x+json",
        1,
    )


@pytest.mark.parametrize("value", [b"\x00", bytearray(b"\x00"), "text", None])
def test_bytes_and_text_are_what_their_sender_says(value):
    payload, said, _ = codecs.encode(value, "application/x-none")
    assert (payload, said) == (codecs.encode(value)[0], "application/x-none")


@pytest.mark.parametrize("value", [{}, 1, Lamp("a"), Color.RED])
def test_content_type_that_nobody_registered_is_a_value_error_that_says_what_to_do(value):
    with pytest.raises(
        ValueError, match=r'no codec for Content Type "application/x-none": .*codecs\.register'
    ):
        codecs.encode(value, "application/x-none")


def test_registered_content_type_is_sent_what_its_format_has(registry):
    seen = []
    codecs.register("a/x", encode=lambda value: seen.append(value) or b"x", decode=bytes)
    assert codecs.encode(Lamp("a"), "A/x; v=1") == (b"x", "A/x; v=1", None)
    assert codecs.compile_encoder(list[Lamp], "a/x")([Lamp("b")])[0] == b"x"
    assert seen == [{"name": "a", "level": 0}, [{"name": "b", "level": 0}]]
    codecs.register("a/x", types=[Lamp], encode=lambda value: value.name.encode(), decode=bytes)
    assert codecs.encode(Lamp("c"), "a/x")[0] == b"c"


def test_pydantic_model_is_sent_as_messagepack():
    class Model(pydantic.BaseModel):
        level: int

    payload, said, _ = codecs.encode(Model(level=1), "application/msgpack")
    assert msgspec.msgpack.decode(payload) == {"level": 1}
    assert codecs.decode(payload, Model, said) == Model(level=1)


def test_pydantic_model_is_read_and_written_by_alias():
    room = Room(name="x", lvl=2)
    payload = codecs.encode(room)
    assert payload == (b'{"name":"x","lvl":2}', "application/json", 1)
    assert codecs.decode(payload[0], Room) == room


def test_pydantic_models_nest_in_containers():
    rooms = [Room(name="x")]
    payload = codecs.encode(rooms)[0]
    assert codecs.decode(payload, list[Room]) == rooms
    assert codecs.compile_encoder(list[Room])(rooms)[0] == payload
    assert codecs.decode(b"", Room | None) is None
    assert codecs.decode(b'{"room":{"name":"x"}}', House) == House(rooms[0])
    assert codecs.encode(House(rooms[0]))[0] == b'{"room":{"name":"x","lvl":0}}'
    with pytest.raises(DecodeError, match="room") as caught:
        codecs.decode(b'{"room":{"name":["hunter2"]}}', House)
    assert "hunter2" not in str(caught.value)


def test_pydantic_dataclass_is_validated():
    assert codecs.decode(b'{"width":1}', Door).width == 1
    assert codecs.encode(Door(width=1))[0] == b'{"width":1}'
    with pytest.raises(DecodeError, match=r"\$\.width"):
        codecs.decode(b'{"width":"x"}', Door)


def test_pydantic_error_names_the_field_and_does_not_quote_the_payload():
    with pytest.raises(DecodeError) as caught:
        codecs.decode(b'{"name":{"secret":"hunter2"},"lvl":-1}', Room)
    assert "$.name" in str(caught.value)
    assert "$.lvl" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(DecodeError):
        codecs.decode(b"{", Room)


def test_pydantic_messagepack_is_read():
    payload = msgspec.msgpack.encode({"name": "x"})
    assert codecs.decode(payload, Room, "application/msgpack").name == "x"


def test_pydantic_content_type_is_checked():
    with pytest.raises(codecs.ContentTypeMismatch):
        codecs.decode(b"{}", Room, "text/plain")
