"""Entry point of `python -m pipeline`, the same as the command `shapelake`."""

from pipeline.cli import main

main()
