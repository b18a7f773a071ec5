"""Run als.cli.null_test; see --help."""

import sys

from als.cli.null_test import main

if __name__ == "__main__":
    sys.exit(main())
