"""``python -m salt_toolkit`` is ``salt``."""

from salt_toolkit.cli import main

main()
