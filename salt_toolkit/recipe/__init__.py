"""Recipes: TOML files, read, merged, validated."""

from salt_toolkit.recipe.core_sections import CacheSection
from salt_toolkit.recipe.load import load_recipe
from salt_toolkit.recipe.model import Recipe, Selected, Teaching
from salt_toolkit.recipe.schema import recipe_schema

__all__ = ["CacheSection", "Recipe", "Selected", "Teaching", "load_recipe", "recipe_schema"]
