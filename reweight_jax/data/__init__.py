"""Data sets: read, split, corrupted and drawn into batches, by the seed alone."""
