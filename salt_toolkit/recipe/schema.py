"""JSON Schema of recipes, for editors that check and complete TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salt_toolkit.kinds import NAME, Kind
from salt_toolkit.recipe.core_sections import CORE_SECTIONS
from salt_toolkit.recipe.layers import EXTENDS, REMOVE
from salt_toolkit.recipe.reading import DOTTED
from salt_toolkit.registry import Registry


def recipe_schema(registry: Registry) -> dict[str, Any]:
    """The schema of recipes with every installed component; draft 2020-12.

    Sections may be spread over files by ``extends``, so no section is required, and neither are
    keys within one: what is missing in the end, `salt check` says.
    """
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {
        EXTENDS: {"type": "string", "description": "A recipe to build on; from this file."},
        REMOVE: {
            "type": "array",
            "items": {"type": "string", "pattern": f"^{DOTTED}$"},
            "description": "Dotted keys and sections to take away from the recipe that this one extends.",
        },
    }
    for name, model in CORE_SECTIONS.items():
        properties[name] = _embed(model.model_json_schema(), definitions, name)
    for kind in registry.kinds.values():
        properties |= _sections(kind, registry, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "salt_toolkit recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _sections(kind: Kind, registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    """The sections in which a recipe may write a kind."""
    found: dict[str, Any] = {}
    if kind.name in kind.sections:
        found[kind.name] = _choice(kind, registry, definitions)
        if kind.default:
            found[kind.name]["default"] = {"use": kind.default}
    if kind.plural in kind.sections:
        extra = _embed(kind.extra.model_json_schema(), definitions, kind.plural)["properties"] if kind.extra else {}
        nested = {name: _choice(registry.kinds[name], registry, definitions) for name in kind.nested}
        found[kind.plural] = {
            "type": "object",
            "description": f"{kind.summary} One table for each, [{kind.plural}.NAME].",
            "propertyNames": {"pattern": f"^{NAME}$"},
            "additionalProperties": _choice(kind, registry, definitions, extra | nested),
        }
    return found


def _choice(
    kind: Kind, registry: Registry, definitions: dict[str, Any], beside: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A section that names one of the kind's components.

    Args:
        kind: Of the components.
        registry: Where they are looked up.
        definitions: Gets the definitions of their models.
        beside: Keys of the section that are no settings of the component.
    """
    choices = []
    for provided in registry.of_kind(kind.name):
        component = provided.component
        schema = _embed(component.config.model_json_schema(), definitions, f"{kind.name}_{component.name}")
        schema["properties"] = {"use": {"const": component.name}, **(beside or {}), **schema.get("properties", {})}
        schema["required"] = ["use"]
        schema["description"] = component.summary
        choices.append(schema)
    # A section without `use` only changes settings of the recipe that it extends.
    return {"anyOf": [*choices, {"type": "object", "not": {"required": ["use"]}}]}


def _embed(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Moves a model's own definitions to the whole schema's, under names of their own."""
    inner = schema.pop("$defs", {})
    schema.pop("required", None)
    renamed = {f"#/$defs/{name}": f"#/$defs/{prefix}_{name}" for name in inner}
    for name, definition in inner.items():
        definitions[f"{prefix}_{name}"] = _rename(definition, renamed)
    return _rename(schema, renamed)


def _rename(value: Any, renamed: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: renamed.get(item, item) if key == "$ref" else _rename(item, renamed) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_rename(item, renamed) for item in value]
    return value
