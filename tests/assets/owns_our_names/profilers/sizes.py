"""A module of the user's own package."""

INPUTS = 8
