"""The control plane: one Serve replica that answers the control API, hands versions over, starts and watches runs.

Everything that must survive is in the registry, so that it may be killed at any point. It must not import `services.replica`
(they communicate through Serve handles and the registry), nor `training` (it starts jobs by their command line).
Start with `plane`, which puts the parts together and does what the API asks for; then `loops`, what happens without a request.
`rollout` does the hand-over, `retrain` and `triggers` automatic retraining, `jobs` runs in Ray, `ownership` what is left to
other clusters on the same database, `corrections` feedback; the HTTP routes are in `api`.
"""
