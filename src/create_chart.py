"""Run als.cli.create_chart; see --help."""

import sys

from als.cli.create_chart import main

if __name__ == "__main__":
    sys.exit(main())
