"""``python -m autoshard.rules > docs/rules.md`` writes the table of rules."""

import sys

from autoshard.rules.catalogue import markdown

if __name__ == "__main__":
    sys.stdout.write(markdown())
