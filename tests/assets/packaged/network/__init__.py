"""A package that imports its own parts relatively."""
