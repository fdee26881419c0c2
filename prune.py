"""Prune attention heads and compare accuracy before and after: `python prune.py --checkpoint
runs/reviews`.
"""

import sys

import attattr_jax_start

if __name__ == "__main__":
    sys.exit(attattr_jax_start.prune())
