"""The gRPC edge: one servicer a file, protobuf to domain values and back."""
