"""Named sweeps: the docstring of each module states its question, its command, its cost and the expected result."""
