"""`python -m pipeline` is the command `shapelake`."""

from pipeline.cli import main

main()
