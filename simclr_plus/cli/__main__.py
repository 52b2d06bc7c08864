"""`python -m simclr_plus.cli`: the command `simclr-plus`."""

from simclr_plus.cli.app import main

if __name__ == "__main__":
    main()
