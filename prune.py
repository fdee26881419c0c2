"""Prune attention heads and compare accuracy before and after: `python prune.py --checkpoint runs/reviews`."""

import sys

from attattr_jax.commands.prune import main

if __name__ == "__main__":
    sys.exit(main())
