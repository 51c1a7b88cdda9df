"""`python -m assistants` is the command `assistants`."""

from assistants.cli import main

main()
