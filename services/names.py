"""Names under which Serve knows Baton's applications. They stand in Serve configs and dashboards: do not change them."""

DEPLOYMENT = "Model"
CONTROL = "control"
ROUTE = "/models"
HEALTH = "/health"
"""The path below a model's route that its replicas answer to everybody, with or without an API key."""


def application(model: str) -> str:
    """The Serve application of a model."""
    return f"model-{model}"


def route(model: str) -> str:
    """The path below which a model answers."""
    return f"{ROUTE}/{model}"
