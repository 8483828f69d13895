"""Tells other programs what happens to models: a POST for each entry of the history that somebody wants to hear of.

Must not know replicas, runs or roll-outs: all that happens stands in the history.

Start with `notifier.py` (what is to be told, and when again), then read `webhook.py` (one request, and its signature).
"""
