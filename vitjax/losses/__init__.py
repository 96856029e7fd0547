"""Losses that two objectives or more share: pure functions of arrays."""
