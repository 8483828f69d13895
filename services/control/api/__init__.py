"""The control API over HTTP: routes, request and answer bodies, problem documents, and the check of API keys.

Knows neither Ray nor how anything is done: every route asks the control plane (`protocol.ControlPlane`), or reads or writes
the registry.
Start with `app.build_api`, which puts the parts together; then read one module of routes, `runs`, and `guard`, which stands in
front of them all.
"""
