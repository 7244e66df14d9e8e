"""What a run leaves to read in its folder."""
