"""One file per run: its docstring is the question, the command, the cost and the numbers to expect."""
