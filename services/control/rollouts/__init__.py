"""Roll-outs: how a version comes into service, or goes back.

Start with `machine`, which says what follows what. `driver` is what the API and the loops ask, `steps` takes the steps:
`preparation` loads a version, `watch` looks at a canary or a shadow, `evidence` is what it found, `replicas` calls them. The
registry has the truth: whoever finds a roll-out there that has not ended goes on with it.
"""
