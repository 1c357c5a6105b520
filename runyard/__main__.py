"""`python -m runyard`: the same as the command `runyard`."""

from runyard.cli.main import main

main()
