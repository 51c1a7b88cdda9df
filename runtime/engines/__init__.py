"""Engines: what does inference for the loop."""
