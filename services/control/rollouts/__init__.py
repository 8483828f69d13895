"""Roll-outs: how a version comes into service, or goes back.

Start with `machine`, which says what follows what. `driver` acts: it asks the replicas through `replicas`, and writes down each
step. `preparation` loads a version, `trial` watches a canary or a shadow. The registry has the truth: whoever finds a roll-out
there that has not ended goes on with it.
"""
