"""Strict loading of checkpoint files into modules."""
