"""`python -m horsies`."""

from .cli.main import main

main()
