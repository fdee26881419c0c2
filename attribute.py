"""Explain predictions by attention attribution: `python attribute.py --checkpoint runs/reviews --text "Stunning visuals, no story."`."""

import sys

from attattr_jax.commands.attribute import main

if __name__ == "__main__":
    sys.exit(main())
