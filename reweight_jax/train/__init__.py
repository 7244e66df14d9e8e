"""One run: its experiment, steps, devices, checkpoints and loop."""
