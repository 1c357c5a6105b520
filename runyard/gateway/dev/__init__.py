"""The dev page: what came in, what it triggered, why it failed, and buttons to do it again.

`page` is the framework: a page, an action, who may use them, how they are rendered. `session` holds
the visitor's key in a cookie, `live` keeps a page up to date over server-sent events. Then there is
a module for each page:

- `events`: all events, and one event with what it caused; `search` parses and runs a search.
- `invocation`: one invocation; `timeline` orders its runs and waits, `blockers` says what holds it.
- `send`: send an event; `forms` builds a form from a JSON Schema, `snippets` the equivalent code.
- `functions`: all functions, and one function with its latest invocations.
- `health`: the checks, queues and workers.

A project adds pages of its own with RUNYARD_PAGES.
"""
