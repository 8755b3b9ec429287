"""JSON Schema of recipes, for editors that check and complete TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salt_toolkit.recipe.layers import EXTENDS, REMOVE
from salt_toolkit.recipe.load import CORE_SECTIONS, DEFAULT_METHOD, LOOP_SCHEDULES, METHOD_SECTIONS, OPTIONAL_SECTIONS
from salt_toolkit.recipe.model import TeachingSection
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
    for name, model in (CORE_SECTIONS | OPTIONAL_SECTIONS).items():
        properties[name] = _embed(model.model_json_schema(), definitions, name)
    for kind in ("dataset", "method", *METHOD_SECTIONS):
        properties[kind] = _choice(kind, registry, definitions)
    properties["teachers"] = _teachers(registry, properties["objective"], definitions)
    properties["method"]["default"] = {"use": DEFAULT_METHOD}
    schedule = _choice("schedule", registry, definitions)
    properties["schedules"] = {
        "type": "object",
        "description": f"Numbers that change over the run; the loop reads {' and '.join(LOOP_SCHEDULES)}.",
        "additionalProperties": schedule,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "salt_toolkit recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _teachers(registry: Registry, objective: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Several teachers: an array of tables, or tables that change some of the array of the recipe below."""
    own = {**_embed(TeachingSection.model_json_schema(), definitions, "teachers")["properties"], "objective": objective}
    choice = _choice("teacher", registry, definitions, own)
    return {
        "description": "Several teachers at once, each with a name; in place of [teacher].",
        "anyOf": [
            {"type": "array", "minItems": 1, "items": {"allOf": [choice, {"required": ["name", "use"]}]}},
            {"type": "object", "additionalProperties": choice},
        ],
    }


def _choice(
    kind: str, registry: Registry, definitions: dict[str, Any], beside: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    choices = []
    for provided in registry.of_kind(kind):
        component = provided.component
        schema = _embed(component.config.model_json_schema(), definitions, f"{kind}_{component.name}")
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
