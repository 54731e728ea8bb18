"""A user's own module, named like one of the standard library's."""

SIDE = 3
