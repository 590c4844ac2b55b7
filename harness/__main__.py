"""`python -m harness`."""

import sys

try:
    from harness.cli import main
except ModuleNotFoundError as error:  # nothing of ours can report it without its packages
    print(
        f"error: {error.name}: the Python package is not installed; run `make setup`",
        file=sys.stderr,
    )
    sys.exit(2)

if __name__ == "__main__":
    main()
