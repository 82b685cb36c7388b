"""Random kills against a real Ray and a real lake; only measuring is a stub. Usage: `python -m tests.chaos -h`."""
