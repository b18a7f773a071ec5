"""One module a command: parser -> frozen Config -> run(config) -> exit code. Nothing imports from here."""
