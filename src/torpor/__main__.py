"""`python -m torpor`: the same as the `torpor` command."""

from torpor.cli.main import main

if __name__ == "__main__":
    main()
