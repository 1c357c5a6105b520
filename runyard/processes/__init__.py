"""The processes that run: the whole `stack` under supervisord, the `daemon`, the `workers` with
their children, the `code_server`; and what is done around them: `migrate`, the `checks` behind
`runyard doctor`.
"""
