"""`baton demo`: runs the whole loop on bundled samples and prints what it measured.

Uses the product as a user does, through the command line and the HTTP API. Must not import what runs the service: the rooms
host, control and replica.

Start reading with `demo` (the steps, in order), then `models` (the three models) and `traffic` (the load, which tests and
benchmarks use, too).
"""
