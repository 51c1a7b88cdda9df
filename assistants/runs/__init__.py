"""Execution of runs: claim, drive the loop, journal; and the watchers of the journal."""
