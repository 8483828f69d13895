"""What the data plane costs: each engine in one process, and the tail of replicas in every state of theirs."""
