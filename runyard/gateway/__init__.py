"""The web process: the HTTP API, the dev page, and the Dagster UI behind them, on one port.

- `http/`: what every request passes through: the server and its limits, request ids, CORS, keys and
  signatures, the request body, and the one format of errors.
- `api/`: the endpoints: events in, history out, actions, streams, health; and `extensions`, through
  which a project adds edge functions and webhooks.
- `dev/`: the dev page.
- `app`: assembles them into one application and serves it.
"""
