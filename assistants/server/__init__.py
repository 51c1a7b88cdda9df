"""The process: interceptors, wiring, start and drain."""
