"""The web process: the door for events over HTTP, the dev page, health, and the Dagster UI behind them on one port.

- `app.py`: puts the routes together.
- `ingest.py`: `POST /e/{key}`, the event API.
- `pages.py`: `/dev`, the latest events and what became of them.
- `health.py`: `/healthz` and `/readyz`.
"""
