"""`python -m pfjax` is the command `pfjax`."""

from pfjax.cli import main

main()
