"""The compiling process; see `_worker`."""

from autoshard.lowering.ahead._worker import main

main()
