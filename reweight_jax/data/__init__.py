"""Data: read, cut into splits, corrupted and drawn into batches, by the seed and nothing else."""
