"""Boards as static pages."""
