"""Tables and progress bars for people: renders what the control API answers (JSON) with rich.

Knows neither HTTP nor the commands; the command line and the demo print what it returns. Start with `show`, which has models,
versions and history and what the other modules share; then `show_runs` and `show_predictions`.
"""
