"""Benchmarks of the control plane that need no service."""
