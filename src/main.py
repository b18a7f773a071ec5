"""Run als.cli.main; see --help."""

import sys

from als.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
