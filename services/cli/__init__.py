"""The `baton` command: reads the environment and ``baton.yaml``, calls the service over HTTP, prints tables or JSON.

Must not import the rooms of the service, `services.replica` and `services.control`: it talks to them with `services.client`.
Uses `services.host` to start and stop processes. Imports Ray, torch and the database only inside the commands that need them,
because every command pays for the imports of this package.

Start reading with `app`, which registers all commands and turns errors into messages, then `terminal`, which the commands
share, then one group, for example `version_commands`; `operating` has the commands of who operates the service.
`services.tables` renders answers of the API for people.
"""
