"""What every request of the web process passes through on its way to an endpoint and back.

The `server` accepts the connection, within `connection_limits`. `request_log` gives the request its
id and its line in the log, `guard` rejects what a page of another site must not do, and `cors` adds
the headers for pages that may call. An `endpoint` then authenticates the caller (`auth`,
`signatures`, `unknown_keys`), reads the `body` within `body_memory`, calls its handler, and turns
every exception into the one format of `errors`.

Handlers share three services. `event_writer` inserts the events of many requests with one
statement, `watcher` polls for the outcomes that clients wait for, each over its own
`database_connection`, and `background` finishes bulk work after the response has been sent.
`openapi` describes the endpoints, `counters` counts the requests, `throttled_log` and `templates`
are helpers.
"""
