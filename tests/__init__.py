"""Levels: unit (pure), store (SQL), function (a job in this process), stack (everything up), faults (kill, restart)."""
