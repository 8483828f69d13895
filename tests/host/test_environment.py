"""What processes of a cluster find in their environment."""

from __future__ import annotations

from services.environment import of_jobs


def test_threads_of_jobs_wait_asleep_unless_the_node_says_otherwise():
    assert of_jobs({}) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert of_jobs({"OMP_WAIT_POLICY": "ACTIVE", "PATH": "/bin"}) == {"OMP_WAIT_POLICY": "ACTIVE"}
