"""Starts, stops, changes and renders the service: `baton up`, `baton down`, `baton apply` and `baton render`.

Runs a Ray cluster of its own on this machine, deploys to a cluster that someone else runs, or writes the files with which
Kubernetes does so. Must not import the command line: progress goes to a callback.

Start reading with `supervisor` (what `baton up` does, in order), then `cluster` (Ray on this machine) and `serve_driver` (the
applications on a cluster); `applying` is what `baton apply` does. `instance`, `processes` and `ports` are the parts of
`cluster`. `render` needs no cluster. `starts` and `log_reading` keep and read logs, `offline` answers without a service,
`checks` looks for what may be wrong.
"""
