"""Everything that answers HTTP or talks to it: Ray Serve applications, the command line, and what starts them.

Must not import `training`: the two meet in the registry, the storage and the command line of a job.

Start with `services.app`, which builds the applications. Then read `services.replica` (the data plane), `services.control` (the
control plane), `services.cli` and `services.host` (start and stop, on a cluster of our own or an existing one). The other
modules of this folder are shared by these packages.
"""
