"""Run als.cli.create_subsets; see --help."""

import sys

from als.cli.create_subsets import main

if __name__ == "__main__":
    sys.exit(main())
