"""Commands of who operates the service on a machine: start it, stop it, read its logs, render it for Kubernetes.

They use `services.host`, where the other commands of `services.cli` call the running service alone.

Start reading with `service_commands`.
"""
