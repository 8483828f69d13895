"""What bad versions and killed processes cost: `python -m benchmarks.rollouts`."""
