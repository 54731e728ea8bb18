"""The user's own package, with a name that one of subopt's folders has too."""

BATCHES = 4
