"""Two explanations beside each other."""

from __future__ import annotations

from ..errors import InputError
from .explanation import Explanation, Explanations


class Comparison(Explanations):
    """Two explanations, shown side by side on one scale: tokens aligned, heads and pairs as A − B.

    As the last line of a notebook's cell they are shown; elsewhere `show` writes the page.
    """

    compares = True  # the page opens with the second text beside the first


def compare(a: Explanation, b: Explanation) -> Comparison:
    """Return two explanations as one object that shows them side by side.

    Of one model, or of two with the same layers and heads; what else differs, such as the class
    explained, the page says.

    Args:
      a, b: of `explain_texts`, `load_attributions` or `explanations_of`.

    Raises:
      InputError: one of them is no explanation.
    """
    for name, one in (("a", a), ("b", b)):
        if not isinstance(one, Explanation):
            raise InputError(
                f"{name} must be an Explanation, such as explain_texts(...)[0], not"
                f" {type(one).__name__}"
            )
    return Comparison([a, b])
