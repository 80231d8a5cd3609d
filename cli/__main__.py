"""`python -m autoshard.cli`, where the `autoshard` script is not on the path."""

import sys

from autoshard.cli._main import main

sys.exit(main())
