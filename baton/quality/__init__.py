"""Quality in production: live F1 on corrected answers, and drift of the traffic.

Must not know HTTP, Ray or metrics: `services` exports what this package computes.

Start with `live.py` (one function over the registry's corrections), then `shadow_feedback.py` (the same for two versions at
once) and `drift.py` (pure statistics).
"""
