"""Makes and judges versions. Runs as a job on the cluster: ``python -m training``. Knows nothing of HTTP."""
