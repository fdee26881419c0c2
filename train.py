"""Fine-tune a BERT classifier: `python train.py --model minilm-l6 --dataset reviews --output_dir
runs/reviews`.
"""

import sys

import attattr_jax_start

if __name__ == "__main__":
    sys.exit(attattr_jax_start.train())
