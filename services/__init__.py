"""Answers HTTP: Ray Serve applications, the control plane and the command line. Knows nothing of training."""
