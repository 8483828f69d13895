"""Everything that answers HTTP or talks to it: Ray Serve applications, the command line, and what starts them.

Must not import `training`: the two meet in the registry, the storage and the command line of a job.

Start with `services.app`, which builds the applications. Then read `services.replica` (the data plane), `services.control` (the
control plane), `services.cli` and `services.host` (start and stop, on a cluster of our own or an existing one).
`services.tables` renders what the command line prints, and `services.demo` is `baton demo`. The other modules are shared.
"""
