"""The HTTP API: events in, triggers, history, actions on what has happened, streams, Inngest's REST
API, health and metrics; and `extensions`, by which a project adds endpoints of its own.
"""
