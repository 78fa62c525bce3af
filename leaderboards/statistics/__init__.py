"""Errors, intervals, resamples and rank intervals (numpy only)."""
