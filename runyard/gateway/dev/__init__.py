"""The dev page: what came in, what it set off, why it failed, do it again.

`page.py` is the frame: a page, an action, who may see and do them, how they are rendered. `live.py` keeps a page up to date. Then a module a page:

- `events.py`: all events, and one with what it caused; `searching.py` reads a search.
- `invocation.py`: one invocation; `timeline.py` is what it did when, `holding.py` what it waits for.
- `send.py`: send an event; `forms.py` makes a form of a JSON Schema, `snippets.py` the same as code.
- `functions.py`: every function, and one with its latest invocations.
- `health.py`: is everything well.
- `session.py`: the key of a visitor, outside development.

A project adds pages of its own (RUNYARD_PAGES).
"""
