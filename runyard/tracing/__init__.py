"""Traces by OpenTelemetry, which is imported only when they are switched on."""
