"""What to expect before anything is trained: of a method's rate, of its gain, and which few methods to try."""
