"""What is said of the labels of a run: numpy and scipy only."""
