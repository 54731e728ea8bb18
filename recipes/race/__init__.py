"""Methods trained against each other on the user's own model, data and device."""
