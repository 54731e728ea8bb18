"""The advisor: from a profile and a budget to an answer with its reasons, and to a recipe."""
