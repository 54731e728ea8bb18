"""The recipe file: `load` and `write` it, its `yaml_source`, `conflicts` in it, and the `bundled` ones."""
