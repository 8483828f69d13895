"""What training and serving must agree on: tasks, predictor, registry, storage, configuration.

Knows neither Ray nor any web framework.
"""

__version__ = "0.1.0"
