"""`python -m mksdask`."""

from mksdask.cli import main

if __name__ == "__main__":
    main(prog_name="mksdask")
