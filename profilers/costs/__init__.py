"""Costs that follow from shapes alone: `formula`, and the `architectures` of the papers' tables."""
