"""The web process: the HTTP API, the dev page, and the Dagster UI behind them on one port.

A request passes `observing` (its id and its line in the log) and `cors`, and comes to an `endpoint`, which lets it in by its key (`access`,
`signatures`), reads it (`reading`), and answers errors in one form (`problems`). Events go through `writing`, what clients wait for through
`watching`, each over a `line` to the database; bulk work goes on in the `background`. What a client may take before it is known is bounded: places
in `connections`, bytes in `bodies`, guesses at keys in `strangers`, lines of the log in `seldom`.

- `ingest.py`, `trigger.py`: events in.
- `history.py`, `stream.py`, `control.py`, `inngest_v1.py`: what became of them, and doing it again; `views.py` is how it looks.
- `doors.py`: what a project adds, edge functions and webhooks.
- `health.py`, `metrics.py`, `description.py`: for those who run it.
- `dev/`: the dev page; `templating.py` is what all pages are made with.
- `app.py` puts everything together, `serving.py` serves it, and `sockets.py` the WebSocket of the Dagster UI.
"""
