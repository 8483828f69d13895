"""What may be wrong on this machine or in what it reaches: checked by `baton doctor`, and in part by `up` and `config check`.

Each check answers within seconds, changes nothing, and works with and without a running service. Must not import Ray.

Start reading with `finding`, then `doctor`, which has the list of the checks. `startup_warnings` has what `up` tells first.
"""
