"""The command `runyard`: a thin layer that parses options and prints.

`main` runs the stack and its processes, sends events and lists them; `invocations` acts on many of
them at once; `keys` manages API keys, `psql` opens the database, and `configuration` writes the
reference of all settings. Commands import what they need when they run, so that `--help` is fast.
"""
