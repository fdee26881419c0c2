"""Fine-tune a BERT classifier: `python train.py --model minilm-l6 --dataset reviews --output_dir runs/reviews`."""

import sys

from attattr_jax.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
