"""A Ray cluster of several nodes on one machine: each node is a network namespace with a Ray of its own."""
