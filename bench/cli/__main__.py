"""Run the command line as `python -m bench.cli`."""

from bench.cli.main import main

if __name__ == "__main__":
    main()
