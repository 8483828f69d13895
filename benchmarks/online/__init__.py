"""Measures automatic retraining: the whole loop with an application that corrects answers, its delay, and drift alarms.

``python -m benchmarks.online`` runs them. Start reading with `scenario` (the model and the traffic), then `stream` (the whole
loop).
"""
