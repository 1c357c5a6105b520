"""The endpoints of the HTTP API.

`events` and `trigger` take events in. `history` and `stream` show what became of them, `wait` holds
a response until they are done, and `actions` replays, cancels and pauses. `inngest_v1` offers the
same to clients of Inngest's REST API, `health` and `metrics` to those who operate the service.
`schemas` holds the models of the responses; `extensions` is for endpoints of the project's own:
edge functions and webhooks.
"""
