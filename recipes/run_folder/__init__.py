"""What a run keeps on disk, complete under its name or absent."""
