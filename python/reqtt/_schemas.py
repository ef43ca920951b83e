"""JSON schemas of annotations, by msgspec and pydantic, in the dialect that AsyncAPI takes (draft 07).

Knows nothing of handlers or messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from reqtt import codecs

__all__ = ["Schemas"]

Mode = Literal["validation", "serialization"]
Schema = dict[str, Any]

_PREFIX: Final = "#/components/schemas/"

# Keys whose value maps names to schemas, and those whose value is no schema at all.
_NAMED: Final = frozenset({"properties", "patternProperties", "definitions", "$defs"})
_DATA: Final = frozenset({"const", "enum", "default", "examples", "example", "required"})


class Schemas:
    """The schemas of annotations, with what they share in `components`, by name.

    `wanted` are annotations and whether they are read ("validation") or written ("serialization"): a pydantic
    model may differ. `reserved` names are left free.
    """

    def __init__(self, wanted: Sequence[tuple[Any, Mode]], *, reserved: Sequence[str] = ()) -> None:
        self.components: dict[str, Schema] = {}
        self._reserved = reserved
        # By identity: an `Annotated` with an unhashable extra has no hash.
        self._found: dict[tuple[int, Mode], Schema] = {}
        structured = [item for item in wanted if not self._simple(*item)]
        self._by_msgspec([item for item in structured if not codecs._holds_pydantic(item[0])])
        self._by_pydantic([item for item in structured if codecs._holds_pydantic(item[0])])

    def of(self, annotation: Any, mode: Mode) -> Schema:
        """The schema of an annotation that was wanted."""
        return self._found[id(annotation), mode]

    def _simple(self, annotation: Any, mode: Mode) -> bool:
        """Bytes, and what another codec makes: JSON schema does not describe it."""
        content = codecs.content_of(annotation)
        if content is None:
            self._found[id(annotation), mode] = {}
        elif content[0] == codecs.BYTES:
            self._found[id(annotation), mode] = {"type": "string", "format": "binary"}
        elif content[0] not in (codecs.JSON, codecs.TEXT):
            self._found[id(annotation), mode] = {"description": content[0]}
        else:
            return False
        return True

    def _by_msgspec(self, wanted: Sequence[tuple[Any, Mode]]) -> None:
        import msgspec

        schemas, components = msgspec.json.schema_components(
            [annotation for annotation, _ in wanted],
            schema_hook=self._pydantic_in_msgspec,
            ref_template=_PREFIX + "{name}",
        )
        renamed = self._add(components)
        for (annotation, mode), schema in zip(wanted, schemas, strict=True):
            self._found[id(annotation), mode] = _draft_07(schema, renamed)

    def _pydantic_in_msgspec(self, model: Any) -> Schema:
        """A model as a field of a dataclass or Struct."""
        if not codecs._holds_pydantic(model):
            raise NotImplementedError
        schema: Schema = codecs._pydantic_adapter(model).json_schema(ref_template=_PREFIX + "{model}")
        renamed = self._add(schema.pop("$defs", {}))
        found: Schema = _draft_07(schema, renamed)
        return found

    def _by_pydantic(self, wanted: Sequence[tuple[Any, Mode]]) -> None:
        if not wanted:
            return
        import pydantic

        adapters = [(number, mode, pydantic.TypeAdapter(item)) for number, (item, mode) in enumerate(wanted)]
        schemas, shared = pydantic.TypeAdapter.json_schemas(adapters, ref_template=_PREFIX + "{model}")
        renamed = self._add(shared.get("$defs", {}))
        for number, (annotation, mode) in enumerate(wanted):
            self._found[id(annotation), mode] = _draft_07(schemas[number, mode], renamed)

    def _add(self, components: Mapping[str, Any]) -> dict[str, str]:
        """Takes in named schemas; gives the new names of those whose own is taken by another."""
        renamed: dict[str, str] = {}
        for name, schema in components.items():
            taken = self.components.get(name)
            if name in self._reserved or (taken is not None and taken != _draft_07(schema, {})):
                number = 2
                while f"{name}_{number}" in self.components or f"{name}_{number}" in components:
                    number += 1
                renamed[name] = f"{name}_{number}"
        for name, schema in components.items():
            self.components[renamed.get(name, name)] = _draft_07(schema, renamed)
        return renamed


def _draft_07(node: Any, renamed: Mapping[str, str]) -> Any:
    """The words of draft 2020-12 in those of draft 07, and of AsyncAPI; references by their new names."""
    if isinstance(node, list):
        return [_draft_07(item, renamed) for item in node]
    if not isinstance(node, dict):
        return node
    made: Schema = {}
    for key, value in node.items():
        if key in _DATA:
            made[key] = value
        elif key in _NAMED and isinstance(value, dict):
            made[key] = {name: _draft_07(schema, renamed) for name, schema in value.items()}
        elif key == "$ref" and isinstance(value, str):
            name = value.removeprefix(_PREFIX)
            made[key] = _PREFIX + renamed.get(name, name)
        elif key == "discriminator" and isinstance(value, dict):
            made[key] = value["propertyName"]
        elif key == "prefixItems":
            made["items"] = _draft_07(value, renamed)
        elif key == "items" and "prefixItems" in node:
            made["additionalItems"] = _draft_07(value, renamed)
        else:
            made[key] = _draft_07(value, renamed)
    return made
