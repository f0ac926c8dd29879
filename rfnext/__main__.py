"""`python -m rfnext` is the command line `rfnext`."""

import sys

from rfnext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
