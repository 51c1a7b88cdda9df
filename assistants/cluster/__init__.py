"""Servers that share their work: dispatch, live events and stop signals on NATS. No truth is kept there."""
