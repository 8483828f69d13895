"""Programs beside Baton that tests need: packages from npm, a collector of traces, an environment with the wheel."""
