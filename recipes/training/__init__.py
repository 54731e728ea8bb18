"""Training from a recipe: built, checked, stepped, evaluated, ended in order."""
