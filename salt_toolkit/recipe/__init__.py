"""Recipes: TOML files, read, merged, validated."""

from salt_toolkit.recipe.load import load_recipe
from salt_toolkit.recipe.model import Recipe, Selected
from salt_toolkit.recipe.schema import recipe_schema

__all__ = ["Recipe", "Selected", "load_recipe", "recipe_schema"]
