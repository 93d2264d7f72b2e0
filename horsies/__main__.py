"""`python -m horsies`."""

from .cli import main

main()
