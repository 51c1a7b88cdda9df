"""The stateful assistants server: threads, messages, runs and their streams."""
