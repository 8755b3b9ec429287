"""Texts and pictures for people."""
