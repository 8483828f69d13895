"""Names by which parts of Baton know each other: in Ray Serve, in paths, and in headers between proxy and replicas.

Serve configs, dashboards and alert rules contain them: do not change them.
"""

DEPLOYMENT = "Model"
"""The deployment of replicas in the application of a model."""
CONTROL = "control"
"""The application of the control plane."""
CONTROL_DEPLOYMENT = "Control"
"""The deployment in the application of the control plane."""
ROUTE = "/models"
"""The path below which all models answer."""
HEALTH = "/health"
"""The path below a model's route that reports whether a replica is ready; it needs no API key."""

ROOM = "x-baton-room"
"""The header in which a replica tells the proxy how many further requests it would let wait. The proxy removes it."""
REFUSED = "x-baton-refused"
"""The header in which the proxy tells a replica how many requests it refused since the last one that it let through."""


def application(model: str) -> str:
    """Return the name of a model's Serve application."""
    return f"model-{model}"


def route(model: str) -> str:
    """Return the path below which a model answers."""
    return f"{ROUTE}/{model}"


def replacing(model: str) -> str:
    """Return the name of the lease that `baton apply` holds while it replaces the replicas of a model."""
    return f"replacing {model}"


def model_lease(model: str) -> str:
    """Return the name of the lease that a cluster holds on the roll-outs and the retraining of a model."""
    return f"model {model}"
