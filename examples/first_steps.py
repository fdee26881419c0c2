"""The Python of the README: `python examples/first_steps.py`, after `make demo`."""

import attattr_jax as aa

classifier = aa.load_classifier("runs/demo")  # a folder or a Hub id
texts = ["stunning visuals, but no story worth telling"]
explanation = aa.explain_texts(classifier, texts)[0]
print(explanation.summary())
print(explanation.to_pandas("pairs")[["from_token", "to_token", "attribution"]].head(3))
print(explanation.heads[0])
