"""The paper's experiments: grids of runs, and their tables and figures."""
