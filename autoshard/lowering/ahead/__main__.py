"""The compiling process; see `_worker`."""

from autoshard.lowering.ahead._worker import main

if __name__ == "__main__":
    main()
