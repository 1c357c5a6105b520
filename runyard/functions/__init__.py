"""What a function is declared with.

`triggers` start a function, `retry` says when a failed attempt is repeated, `flow_control` what
holds invocations back. The `registry` publishes all functions to the database, where senders and
claims find them.
"""
