"""Run als.cli.sweep; see --help."""

import sys

from als.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
