"""Run als.cli.compute_steering_vector; see --help."""

import sys

from als.cli.compute_steering_vector import main

if __name__ == "__main__":
    sys.exit(main())
