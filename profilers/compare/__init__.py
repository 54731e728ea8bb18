"""Two profiles side by side: `match_layers` pairs their layers, `compare` their numbers."""
