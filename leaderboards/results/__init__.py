"""Cells on disk: what a result says, where it lies, how it is read and written, and what a forged one betrays."""
