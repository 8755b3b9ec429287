"""From checkpoint files to modules, whole or not at all."""
