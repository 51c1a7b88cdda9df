"""Traces of what the server does, in the words of OpenTelemetry's semantic conventions."""
