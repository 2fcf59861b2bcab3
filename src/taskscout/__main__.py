"""``python -m taskscout``."""

from taskscout.cli import main

main()
