"""Measures the gate: on simulated versions, of which it is known which one is better, and on real predictions."""
