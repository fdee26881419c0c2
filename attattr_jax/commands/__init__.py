"""The three scripts as functions: `train.main`, `attribute.main`, `prune.main`."""
