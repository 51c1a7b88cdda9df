"""The reasoning engine and the agent loop. Knows no SQL and no OpenTelemetry."""
