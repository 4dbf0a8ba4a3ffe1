"""Run the command line as `python -m bench.cli`."""

import sys

from bench.installed import PLACE

# Python puts the working folder first for `-m`, where a user's random.py would be imported in place of the real one.
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] != str(PLACE):
    del sys.path[0]

from bench.cli.main import main

if __name__ == "__main__":
    main()
