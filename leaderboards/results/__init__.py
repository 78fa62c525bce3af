"""Cells on disk: what a result says, where it is stored, how it is read, and what gives a forged one away."""
