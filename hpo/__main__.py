"""`python -m hpo`."""

from hpo.entry import main

if __name__ == "__main__":
    main()
