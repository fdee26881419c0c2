"""The Python of the README: `python examples/first_steps.py`, after `make demo`."""

import attattr_jax as aa

classifier = aa.load_classifier("runs/demo")  # a folder or a Hub id
texts = ["stunning visuals, but no story worth telling"]
explanation = aa.explain_texts(classifier, texts)[0]
print(explanation.predicted, f"{explanation.score:.3f}")
for pair in explanation.token_pairs[:3]:
    source, destination = explanation.tokens[pair["from"]], explanation.tokens[pair["to"]]
    print(f"{source} attends to {destination}: {pair['attribution']:+.3f}")
print(explanation.heads[0])
