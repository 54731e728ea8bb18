"""The user's own package, with a name that one of subopt's folders has too."""

HIDDEN = 16
