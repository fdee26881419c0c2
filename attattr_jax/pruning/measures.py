"""The names of the measures of head importance; `importance` computes them."""

MEASURES = ("attribution", "taylor", "attention", "ablation", "random")
