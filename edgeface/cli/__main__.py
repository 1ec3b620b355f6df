"""`python -m edgeface.cli` is the command `edgeface`."""

from edgeface.cli import main

main()
