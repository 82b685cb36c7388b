"""Named sweeps, one module each; the docstring states the question, the command, the cost and the expected result."""
