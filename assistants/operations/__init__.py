"""What the server does, one module a resource: validate and act, the same for every edge."""
