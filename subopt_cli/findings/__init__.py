"""From numbers to words: what a profile, a race or a comparison says, for the terminal and the report alike."""
