"""Payloads and Python values, both ways: an annotation, or a value's type, chooses the codec.

Owns the table of codecs; knows nothing of topics, connections or handlers.

| type | Content Type | Payload Format Indicator |
|---|---|---|
| bytes, bytearray, memoryview | none set, any accepted | none |
| str | text/plain (`text/*` accepted) | 1 |
| anything else that JSON can hold | application/json (`+json`, MessagePack accepted) | 1 |
| what `register` added | its own | its own |

JSON covers dict, list, int, float, bool, None, dataclass, TypedDict, NamedTuple, Enum, Literal, datetime,
UUID, Decimal, msgspec.Struct and unions of them by msgspec, and pydantic models where pydantic is in use. A
missing Content Type is accepted; one that contradicts the type is an error (MQTT 5.0, section 3.3.2.3.9).
"""

from __future__ import annotations

import contextlib
import enum
import functools
import re
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin, overload

from reqtt.errors import DecodeError

if TYPE_CHECKING:
    import msgspec
else:
    from reqtt import _msgspec as msgspec

__all__ = [
    "ContentTypeMismatch",
    "Encoded",
    "Payload",
    "RequestDecodeError",
    "compile_decoder",
    "compile_encoder",
    "decode",
    "decode_request",
    "encode",
    "encoder_for",
    "register",
]

T = TypeVar("T")

Payload: TypeAlias = bytes | bytearray | memoryview | str | object
"""What a message may carry: bytes go as they are, str as text, None as nothing, the rest as JSON."""

Encoded: TypeAlias = tuple[bytes, str | None, int | None]
"""Payload, Content Type, Payload Format Indicator."""

Encoder: TypeAlias = Callable[[Any], Encoded]
Decoder: TypeAlias = Callable[[bytes, str | None, int | None], T]

TEXT = "text/plain"
JSON = "application/json"
BYTES = "application/octet-stream"
"""What bytes are called where a name is needed; a message of bytes says none."""

_MSGPACK = frozenset({"application/msgpack", "application/x-msgpack", "application/vnd.msgpack"})
_BYTES: tuple[type, ...] = (bytes, bytearray, memoryview)
_NONE = type(None)


class ContentTypeMismatch(DecodeError):
    """The Content Type of a message contradicts the type it is to be decoded to."""


class RequestDecodeError(DecodeError):
    """The payload of a request is not what the handler expects; `status` is the answer to it: 400 or 415."""

    status: int

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Registered:
    content_type: str
    types: tuple[type, ...]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    payload_format_indicator: int | None


# Latest first.
_registry: list[_Registered] = []


def register(
    content_type: str,
    *,
    types: Iterable[type] = (),
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    payload_format_indicator: int | None = None,
) -> None:
    """Add a codec for a Content Type (MQTT 5.0, section 3.3.2.3.9).

    Register before the handlers that need it are decorated. With `types`, these classes and their subclasses
    are sent by it, and read by it unless a message says another Content Type that is known. Without, it reads
    what arrives under its Content Type, and the result is then converted to the annotation. The latest
    registration of a type or Content Type wins.

    Args:
        content_type: e.g. "application/cbor"; compared without parameters and without regard to case.
        types: the classes that it encodes.
        encode: value -> bytes.
        decode: bytes -> value; what it raises becomes `DecodeError`.
        payload_format_indicator: 1 where the bytes are UTF-8 text, else 0 or None.

    Raises:
        ValueError: no Content Type of the form `type/subtype`, or an indicator that is not 0 or 1.
        TypeError: `types` holds something that is no class, or a codec cannot be called.

    Example:
        import cbor2
        reqtt.codecs.register("application/cbor", encode=cbor2.dumps, decode=cbor2.loads)
        reading = await requester.request("sensor/1/read", response_type=Reading)
    """
    if "/" not in essence(content_type):
        raise ValueError(f'content_type must look like "application/cbor", not {content_type!r}')
    if payload_format_indicator not in (None, 0, 1):
        raise ValueError(f"payload_format_indicator must be 0, 1 or None, not {payload_format_indicator!r}")
    classes = (types,) if isinstance(types, type) else tuple(types)
    for cls in classes:
        if not isinstance(cls, type):
            raise TypeError(f"types must be classes, not {cls!r}")
    if not callable(encode) or not callable(decode):
        raise TypeError("encode and decode must be callable")
    _registry.insert(0, _Registered(content_type, classes, encode, decode, payload_format_indicator))
    _encoder_of.cache_clear()
    _compiled_encoder.cache_clear()
    _encoder_under.cache_clear()
    _compiled_decoder.cache_clear()


def essence(content_type: str | None) -> str:
    """A Content Type without its parameters and in lower case; empty where there is none."""
    return content_type.partition(";")[0].strip().lower() if content_type else ""


# --- encode ---------------------------------------------------------------------------------------


def encode(value: Payload, content_type: str | None = None) -> Encoded:
    """Payload, Content Type and Payload Format Indicator for a value, by its type (section 3.3.2.3).

    With a Content Type it is encoded as that: JSON, MessagePack, or what was registered. Bytes and text go as
    they are under any.

    Raises:
        TypeError, ValueError: no codec can encode it, or there is none for this Content Type.

    Example:
        encode({"power": "ON"})  # (b'{"power":"ON"}', "application/json", 1)
        encode([1], "application/msgpack")  # (b"\\x91\\x01", "application/msgpack", None)
    """
    cls: Any = type(value)
    return _encoder_of(cls)(value) if content_type is None else _encoder_under(cls, content_type)(value)


def encoder_for(value_or_type: Any) -> Encoder:
    """The encoder for an annotation, or for values of the same type as this one.

    Raises:
        TypeError: there is no codec for it.
    """
    if isinstance(value_or_type, type) or get_origin(value_or_type) is not None:
        return compile_encoder(value_or_type)
    cls: Any = type(value_or_type)
    return _encoder_of(cls)


def compile_encoder(annotation: Any, content_type: str | None = None) -> Encoder:
    """The encoder for results annotated like this. Bytes and None go as they are, `Any` goes by the value.

    With a Content Type, as `encode` does with one.

    Raises:
        ValueError: no codec for the Content Type.
    """
    if content_type is None:
        return _cached(_compiled_encoder, annotation)
    return _encoder_under(without_extras(annotation), content_type)


@functools.lru_cache(maxsize=1024)
def _encoder_under(annotation: Any, content_type: str) -> Encoder:
    plain = _cached(_compiled_encoder, annotation)
    bare, _ = without_none(annotation)

    def as_it_is(value: Any) -> Encoded:
        payload, _, indicator = plain(value)
        return payload, content_type, indicator

    if bare in (Any, object):
        return lambda value: encode(value, content_type)
    if bare is _NONE or (
        isinstance(bare, type) and issubclass(bare, (*_BYTES, str)) and not issubclass(bare, enum.Enum)
    ):
        return as_it_is
    kind = essence(content_type)
    entry = _registered_under(kind)
    if entry is None and _is_json(kind):
        return as_it_is
    if entry is not None:
        dump, indicator = functools.partial(_dump, entry), entry.payload_format_indicator
    elif _is_msgpack(kind):
        dump, indicator = functools.partial(msgspec.msgpack.encode, enc_hook=_enc_hook), None
    else:
        raise ValueError(
            f'no codec for Content Type "{content_type[:64]}": add one with reqtt.codecs.register,'
            " or encode the payload and give bytes"
        )

    def encode_under(value: Any) -> Encoded:
        if value is None or isinstance(value, _BYTES):
            return as_it_is(value)
        return dump(value), content_type, indicator

    return encode_under


def _dump(entry: _Registered, value: Any) -> bytes:
    # A codec of no types of its own knows what its format has: dicts, lists, numbers.
    own = isinstance(value, entry.types)
    return bytes(
        entry.encode(value if own else msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_enc_hook))
    )


def content_of(annotation: Any) -> tuple[str, int | None] | None:
    """Content Type and Payload Format Indicator of values annotated so; None where each value decides."""
    bare, _ = without_none(annotation)
    entry = _registered_for(bare)
    if entry is not None:
        return entry.content_type, entry.payload_format_indicator
    if bare in _BYTES:
        return BYTES, None
    if bare is str:
        return TEXT, 1
    return None if _goes_by_value(bare) else (JSON, 1)


def to_json(value: Any) -> bytes:
    """JSON, pydantic models included. Raises TypeError or ValueError where JSON cannot hold the value."""
    try:
        return msgspec.json.encode(value, enc_hook=_enc_hook)
    except RecursionError:
        raise ValueError(
            f"cannot encode {type(value).__name__} as JSON: nested too deeply, or within itself"
        ) from None


def _encode_bytes(value: Any) -> Encoded:
    return (value if type(value) is bytes else bytes(value)), None, None


def _encode_text(value: Any) -> Encoded:
    return str.encode(value), TEXT, 1


def _encode_none(value: Any) -> Encoded:
    return b"", None, None


def _encode_json(value: Any) -> Encoded:
    return to_json(value), JSON, 1


def _encode_pydantic(value: Any) -> Encoded:
    # By alias, because that is what validation reads.
    return type(value).__pydantic_serializer__.to_json(value, by_alias=True), JSON, 1


def _enc_hook(value: Any) -> Any:
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    if serializer is None:
        raise TypeError(f"cannot encode {type(value).__name__} as JSON")
    return serializer.to_python(value, mode="json", by_alias=True)


@functools.lru_cache(maxsize=1024)
def _encoder_of(cls: Any) -> Encoder:
    registered = next((entry for entry in _registry if issubclass(cls, entry.types)), None)
    if registered is not None:
        return _registered_encoder(registered)
    if issubclass(cls, _BYTES):
        return _encode_bytes
    if issubclass(cls, str) and not issubclass(cls, enum.Enum):
        return _encode_text
    if cls is _NONE:
        return _encode_none
    return _encode_pydantic if _is_pydantic(cls) else _encode_json


def _registered_encoder(entry: _Registered) -> Encoder:
    def encode_registered(value: Any) -> Encoded:
        return bytes(entry.encode(value)), entry.content_type, entry.payload_format_indicator

    return encode_registered


@functools.lru_cache(maxsize=1024)
def _compiled_encoder(annotation: Any) -> Encoder:
    bare, _ = without_none(annotation)
    if isinstance(bare, type) and (bare in _BYTES or issubclass(bare, _registered_types())):
        return encode
    if bare is str:
        return _encode_str_or_other
    if _goes_by_value(bare):
        return encode
    dump = _pydantic_adapter(bare).dump_json if _holds_pydantic(bare) else None

    def encode_result(value: Any) -> Encoded:
        if value is None or isinstance(value, _BYTES):
            return encode(value)
        if dump is None:
            return to_json(value), JSON, 1
        return dump(value, by_alias=True, warnings=False), JSON, 1

    return encode_result


def _goes_by_value(bare: Any) -> bool:
    """A union with bytes in it, and whatever says nothing."""
    members = get_args(bare) if _is_union(bare) else (bare,)
    return any(
        member in (Any, object, _NONE) or member in _BYTES or isinstance(member, TypeVar)
        for member in members
    )


def _encode_str_or_other(value: Any) -> Encoded:
    return _encode_text(value) if isinstance(value, str) else encode(value)


# --- decode ---------------------------------------------------------------------------------------


def decode(
    payload: bytes,
    type: type[T],
    content_type: str | None = None,
    payload_format_indicator: int | None = None,
) -> T:
    """The value of a payload as `type` (section 3.3.2.3.9).

    Args:
        payload: the bytes of the message.
        type: any annotation of the table above; `Any` for whatever is in it.
        content_type: what the message says it is; None: nothing, and any `type` is tried.
        payload_format_indicator: 0, 1 or None, as the message says.

    Raises:
        DecodeError: it is not one, or its Content Type contradicts `type` (`ContentTypeMismatch`).
        TypeError: there is no codec for `type`.

    Example:
        decode(b'{"power":"ON"}', dict[str, str], "application/json")  # {"power": "ON"}
    """
    return compile_decoder(type)(payload, content_type, payload_format_indicator)


def decode_request(
    payload: bytes,
    type: type[T],
    content_type: str | None = None,
    payload_format_indicator: int | None = None,
) -> T:
    """Like `decode`, for a request: its `RequestDecodeError` is answered with 400 or 415 by the responder."""
    try:
        return decode(payload, type, content_type, payload_format_indicator)
    except DecodeError as error:
        raise request_error(error) from None


def request_error(error: DecodeError) -> RequestDecodeError:
    """The error of a request's payload for an error of a payload."""
    return RequestDecodeError(str(error), status=415 if isinstance(error, ContentTypeMismatch) else 400)


@overload
def compile_decoder(type: type[T]) -> Decoder[T]: ...
@overload
def compile_decoder(type: Any) -> Decoder[Any]: ...
def compile_decoder(type: Any) -> Decoder[Any]:
    """A function (payload, content_type, payload_format_indicator) -> value, compiled once for each type.

    Raises:
        TypeError: there is no codec for `type`.
    """
    return _cached(_compiled_decoder, type)


@functools.lru_cache(maxsize=1024)
def _compiled_decoder(annotation: Any) -> Decoder[Any]:
    bare, optional = without_none(annotation)
    decoder = _bare_decoder(bare, annotation)
    if not optional:
        return decoder

    def decode_optional(payload: bytes, content_type: str | None, indicator: int | None) -> Any:
        return decoder(payload, content_type, indicator) if payload else None

    return decode_optional


def _bare_decoder(bare: Any, annotation: Any) -> Decoder[Any]:
    if bare is bytes:
        return _decode_bytes
    if bare in (bytearray, memoryview):
        return lambda payload, content_type, indicator: bare(payload)
    if _is_union(bare) and any(member in _BYTES for member in get_args(bare)):
        raise TypeError(
            f"{_name(bare)} is ambiguous: a payload is always bytes; take bytes, or leave them out"
        )
    if bare is str:
        return _decode_str if bare is annotation else _constrained_str(annotation)
    if bare is object:
        bare = annotation = Any
    entry = _registered_for(bare)
    return _structured_decoder(annotation) if entry is None else _registered_decoder(entry, annotation)


def _decode_bytes(payload: bytes, content_type: str | None, indicator: int | None) -> bytes:
    return payload


def _decode_str(payload: bytes, content_type: str | None, indicator: int | None) -> str:
    if content_type is not None and content_type != TEXT:
        kind = essence(content_type)
        if kind and not kind.startswith("text/"):
            value = _decode_by_content_type(payload, kind)
            if isinstance(value, str):
                return value
            raise _mismatch(content_type, "text/plain")
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"payload is no UTF-8 text: {error.reason} at byte {error.start}") from None


def _constrained_str(annotation: Any) -> Decoder[Any]:
    require_codec(annotation)

    def decode_constrained(payload: bytes, content_type: str | None, indicator: int | None) -> Any:
        text = _decode_str(payload, content_type, indicator)
        try:
            return msgspec.convert(text, annotation)
        except msgspec.ValidationError as error:
            raise _decode_error(error, payload or b" ") from None

    return decode_constrained


def _structured_decoder(annotation: Any) -> Decoder[Any]:
    """JSON or MessagePack, by Content Type; JSON where there is none."""
    if _holds_pydantic(annotation):
        adapter = _pydantic_adapter(annotation)
        decode_json, convert = adapter.validate_json, adapter.validate_python
        decode_msgpack: Callable[[bytes], Any] = lambda payload: convert(msgspec.msgpack.decode(payload))  # noqa: E731
    else:
        require_codec(annotation)
        decode_json = msgspec.json.Decoder(annotation, dec_hook=_dec_hook).decode
        decode_msgpack = msgspec.msgpack.Decoder(annotation, dec_hook=_dec_hook).decode
        convert = functools.partial(msgspec.convert, type=annotation, dec_hook=_dec_hook)

    def decode_structured(payload: bytes, content_type: str | None, indicator: int | None) -> Any:
        try:
            if content_type is None or content_type == JSON:
                return decode_json(payload)
            kind = essence(content_type)
            if not kind or _is_json(kind):
                return decode_json(payload)
            if _is_msgpack(kind):
                return decode_msgpack(payload)
            value = _decode_by_content_type(payload, kind)
            if value is not _UNKNOWN:
                return convert(value)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise _decode_error(error, payload) from None
        raise _mismatch(content_type, JSON)

    return decode_structured


def _registered_decoder(entry: _Registered, annotation: Any) -> Decoder[Any]:
    own = essence(entry.content_type)
    others: list[Decoder[Any]] = []
    # The type may be one that JSON can hold too; then a message that says so is read as such.
    with contextlib.suppress(TypeError):
        others.append(_structured_decoder(annotation))

    def decode_registered(payload: bytes, content_type: str | None, indicator: int | None) -> Any:
        kind = essence(content_type)
        if kind in ("", own):
            return _call(entry, payload)
        for other in others:
            return other(payload, content_type, indicator)
        value = _decode_by_content_type(payload, kind)
        if value is _UNKNOWN:
            raise _mismatch(content_type, entry.content_type)
        return value

    return decode_registered


class _Unknown(enum.Enum):
    UNKNOWN = 0


_UNKNOWN = _Unknown.UNKNOWN


def _registered_under(kind: str) -> _Registered | None:
    return next((entry for entry in _registry if essence(entry.content_type) == kind), None)


def _is_json(kind: str) -> bool:
    return kind in (JSON, "text/json") or kind.endswith("+json")


def _is_msgpack(kind: str) -> bool:
    return kind in _MSGPACK or kind.endswith("+msgpack")


def _decode_by_content_type(payload: bytes, kind: str) -> Any:
    entry = _registered_under(kind)
    return _UNKNOWN if entry is None else _call(entry, payload)


def _call(entry: _Registered, payload: bytes) -> Any:
    try:
        return entry.decode(payload)
    except DecodeError:
        raise
    except Exception:
        # Its text is not passed on: a foreign codec may quote the payload.
        raise DecodeError(f"payload is no valid {entry.content_type}") from None


def _mismatch(content_type: str | None, expected: str) -> ContentTypeMismatch:
    text = content_type or ""
    shown = text if len(text) <= 64 else text[:64] + "..."
    return ContentTypeMismatch(f'Content Type "{shown}" is not supported here: send {expected}')


_QUOTED_VALUE = re.compile(r"^Invalid enum value .*?(?= - at `\$[^`]*`$|$)", re.DOTALL)


def _decode_error(error: BaseException, payload: bytes) -> DecodeError:
    if isinstance(error, DecodeError):
        return error
    if not payload:
        return DecodeError("payload is empty: expected JSON")
    if isinstance(error, RecursionError):
        return DecodeError("payload is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return DecodeError(f"payload is no UTF-8 text: {error.reason}")
    if hasattr(error, "errors"):
        return DecodeError(_pydantic_problems(error))
    return DecodeError(_QUOTED_VALUE.sub("Invalid enum value", str(error)))


def _pydantic_problems(error: Any) -> str:
    """What is wrong in which field, without the input, which pydantic's own text quotes."""
    if not hasattr(error, "errors"):
        return str(error)
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(_pydantic_problem(problem) for problem in problems[:5])


def _pydantic_problem(problem: dict[str, Any]) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    return f"{problem['msg']} - at `${where}`" if where else str(problem["msg"])


def _dec_hook(cls: Any, value: Any) -> Any:
    if _is_pydantic(cls):
        try:
            return cls.__pydantic_validator__.validate_python(value)
        except ValueError as error:
            # msgspec takes over the text, and pydantic's own quotes the input.
            raise ValueError(_pydantic_problems(error)) from None
    if isinstance(cls, type) and isinstance(value, cls):
        return value
    raise TypeError(f"no codec for {_name(cls)}")


# --- what an annotation is ------------------------------------------------------------------------


def _cached(compiled: functools._lru_cache_wrapper[T], annotation: Any) -> T:
    try:
        hash(annotation)
    except TypeError:
        # `Annotated` with an unhashable extra.
        return compiled.__wrapped__(annotation)
    return compiled(annotation)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def without_extras(annotation: Any) -> Any:
    """The type inside `Annotated`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def without_none(annotation: Any) -> tuple[Any, bool]:
    """The type inside `Annotated` and `Optional`, and whether None was among its alternatives."""
    bare = without_extras(annotation)
    if bare is None or bare is _NONE:
        return _NONE, True
    if not _is_union(bare):
        return bare, False
    members = tuple(member for member in get_args(bare) if member is not _NONE)
    if len(members) == len(get_args(bare)):
        return bare, False
    return (without_extras(members[0]) if len(members) == 1 else Union[members]), True  # noqa: UP007


def _is_pydantic(cls: Any) -> bool:
    return isinstance(cls, type) and hasattr(cls, "__pydantic_validator__")


def _holds_pydantic(annotation: Any) -> bool:
    if "pydantic" not in sys.modules:
        return False
    return _is_pydantic(annotation) or any(_holds_pydantic(argument) for argument in get_args(annotation))


def _pydantic_adapter(annotation: Any) -> Any:
    return sys.modules["pydantic"].TypeAdapter(annotation)


def _registered_types() -> tuple[type, ...]:
    return tuple(cls for entry in _registry for cls in entry.types)


def _registered_for(annotation: Any) -> _Registered | None:
    if not isinstance(annotation, type) or get_args(annotation):
        return None
    return next((entry for entry in _registry if issubclass(annotation, entry.types)), None)


def require_codec(annotation: Any) -> None:
    """Raises TypeError where msgspec and pydantic cannot fill a type, or one of its fields."""
    try:
        root = msgspec.inspect.type_info(annotation)
    except TypeError as error:
        raise TypeError(f"no codec for {_name(annotation)}: {error}") from None
    seen: set[int] = set()
    todo: list[Any] = [root]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType) and not _is_pydantic(node.cls):
            raise TypeError(
                f"no codec for {_name(node.cls)}: use a dataclass, msgspec.Struct or pydantic model,"
                " or add one with reqtt.codecs.register"
            )
        for name in getattr(node, "__struct_fields__", ()):
            value = getattr(node, name)
            inner = value if isinstance(value, tuple) else (value,)
            todo += [item for item in inner if isinstance(item, msgspec.inspect.Type | msgspec.inspect.Field)]


def _name(annotation: Any) -> str:
    return (
        annotation.__qualname__
        if isinstance(annotation, type) and not get_args(annotation)
        else str(annotation)
    )
