"""Environment variables of a cluster's processes."""

from __future__ import annotations

from services.environment import job_environment


def test_threads_of_jobs_wait_asleep_unless_the_node_says_otherwise():
    assert job_environment({}) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert job_environment({"OMP_WAIT_POLICY": "ACTIVE", "PATH": "/bin"}) == {"OMP_WAIT_POLICY": "ACTIVE"}
