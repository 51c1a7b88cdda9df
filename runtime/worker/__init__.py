"""The process that does inference for one model, and what keeps it alive."""
