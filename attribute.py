"""Explain predictions by attention attribution: `python attribute.py --checkpoint runs/reviews
--text "Stunning visuals, no story."`.
"""

import sys

import attattr_jax_start

if __name__ == "__main__":
    sys.exit(attattr_jax_start.attribute())
