"""What Baton is measured by. Each module is one benchmark; ``python -m benchmarks`` runs them and writes RESULTS.md."""
