"""The processes of an installation, and what surrounds them.

The `stack` runs them all under supervisord: the `daemon`, the `workers` with their children, the
`code_server` and the web process. `migrate` prepares the database; the `checks` are behind
`runyard doctor`.
"""
