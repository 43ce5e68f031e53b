"""``python -m ritornello`` is the same as ``ritornello``."""

from ritornello.cli import main

if __name__ == "__main__":
    main()
