"""Folders of results that others can check."""
