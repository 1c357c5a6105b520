"""What a function is declared with: what starts it (`triggers`), when it is tried again (`retry`),
what holds it back (`flow_control`); and the `registry`, which publishes all functions to the
database, where senders and claims find them.
"""
