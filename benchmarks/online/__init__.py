"""Online fine-tuning, measured: a simulated application, the delay from correction to service, and drift."""
