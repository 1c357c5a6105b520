"""What every request of the web process passes, before and behind its endpoint.

The `server` accepts it, the `guard` refuses what comes from elsewhere, `auth` tells whose it is,
`body` reads it, an `endpoint` answers, `errors` is the one form of what is refused. Many requests
share one INSERT (`event_writer`) and one look for outcomes (`watcher`).
"""
