"""Random faults against a real Ray and a real lake; only the measuring is a stand-in: `python -m tests.chaos -h`."""
