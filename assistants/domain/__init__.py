"""Frozen values of every resource, their rules, and the ports to what stores them."""
