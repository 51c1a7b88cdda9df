"""The process: interceptors, wiring, start and drain."""

import os

# Read when grpc is imported. Its log lines would stand beside ours on stderr, which say the same.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
