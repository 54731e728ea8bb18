"""The advisor: from a profile and a budget to an answer in words, and to a recipe."""
