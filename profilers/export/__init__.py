"""A profile as tidy tables: `frames` lists them, `layers` and `costs` make them, `table` is their form."""
