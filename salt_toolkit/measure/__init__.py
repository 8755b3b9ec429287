"""How fast a recipe is on this machine, and what holds it back: measured, without a run directory."""
