"""The Hugging Face Hub: models downloaded as safetensors, model cards, and models pushed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, root_cause
from ..runtime.progress import quiet_import

MINILM = "minilm-l6"
FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece*",
    "spm.model",
    "spiece.model",
    "special_tokens_map.json",
]
# The pull request by which the Hub's own account offers the weights of a pickle as safetensors.
_CONVERSION = ("SFconvertbot", "Adding `safetensors` variant of this model")


def download(name: str, revision: str | None = None) -> Path:
    """Return the folder of a Hub id in the local cache, fetching what is missing.

    Where the main branch has no safetensors, it is the folder of the pull request that the Hub
    itself has opened to add them, if it was made from what is there now. Pickles are never fetched.

    Args:
      name: the id.
      revision: a branch, a tag or a commit; None: the main branch.

    Raises:
      InputError: there is no such model or revision, or it cannot be had.
    """
    with quiet_import():
        import huggingface_hub
        from huggingface_hub import errors

    offline = f"use a folder that train.py wrote, or any in Hugging Face format, or {MINILM}"
    what = name if revision is None else f"{name} (revision {revision!r:.80})"
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=FILES)
    except errors.RevisionNotFoundError:
        raise InputError(
            f"{name} has no revision {revision!r:.80}: name a branch, a tag or a commit of it"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise InputError(
            f"{name} is neither a folder nor a model on the Hub; check the spelling, or {offline}"
        ) from None
    except Exception as error:  # whatever the network layer raises: the remedy is the same
        reason = type(error).__name__
        raise InputError(
            f"{what} is no folder, not in the local cache, and the Hub cannot be reached"
            f" ({reason}): {offline}"
        ) from None
    folder = Path(folder)
    if revision is None and not any(folder.glob("*.safetensors")):
        return _converted(name, folder) or folder
    return folder


def _converted(name: str, main: Path) -> Path | None:
    """Return the folder of the pull request with the weights as safetensors; None without one.

    It counts only if it is the Hub's own, and made from the commit that the main branch is at: else
    its weights may be others.
    """
    import huggingface_hub

    author, title = _CONVERSION
    try:
        for discussion in huggingface_hub.get_repo_discussions(name):
            is_open = discussion.is_pull_request and discussion.status == "open"
            if not is_open or (discussion.author, discussion.title) != (author, title):
                continue
            reference = f"refs/pr/{discussion.num}"
            commits = huggingface_hub.list_repo_commits(name, revision=reference)
            if len(commits) > 1 and commits[1].commit_id == main.name:
                return Path(
                    huggingface_hub.snapshot_download(
                        name, revision=reference, allow_patterns=FILES
                    )
                )
    except Exception:  # not reachable: what was fetched before may still be here
        pass
    return _cached_conversion(main)


def _cached_conversion(main: Path) -> Path | None:
    """Return the newest pull request with safetensors in the local cache."""
    repository = main.parent.parent
    references = [
        file for file in (repository / "refs" / "refs" / "pr").glob("*") if file.name.isdecimal()
    ]
    for reference in sorted(references, key=lambda file: -int(file.name)):
        folder = repository / "snapshots" / reference.read_text(encoding="utf-8").strip()
        if any(folder.glob("*.safetensors")):
            return folder
    return None


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a model card says beside what the classifier itself knows."""

    dataset: str | None = None  # its name, without a path
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    command: str | None = None  # that made the model


_CARD_TAG = "attattr-jax"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    name: str, title: str, classes: list[str], pruned: Mapping[int, list[int]], facts: CardFacts
) -> str:
    """Return the `README.md` of a classifier, with the Hub's block of metadata.

    Args:
      name: the checkpoint that it was made from; it is the base model if it is a Hub id.
      title: of the family.
      classes: their names, in order.
      pruned: the removed heads of each layer that lost some.
      facts: what else is known.
    """
    with quiet_import():
        import huggingface_hub

    is_id = bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()
    data = huggingface_hub.ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=name if is_id else None,
        datasets=[facts.dataset] if facts.dataset else None,
        metrics=sorted({key.split("_", 1)[-1] for key in facts.metrics}) or None,
        tags=[_CARD_TAG, *(["pruned-attention-heads"] if pruned else [])],
    )
    lines = ["---", data.to_yaml().strip(), "---", "", f"# {title} text classifier", ""]
    lines += [f"Classes: {', '.join(map(_as_code, classes))}.", ""]
    if is_id:
        lines += [f"Made from {_as_code(name)}.", ""]
    if facts.dataset:
        lines += [f"Trained or evaluated on {_as_code(facts.dataset)}.", ""]
    if facts.metrics:
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {_as_code(key)} | {value:.4f} |" for key, value in facts.metrics.items()]
        lines += [""]
    if pruned:
        removed = "; ".join(
            f"layer {layer}: {', '.join(map(str, heads))}" for layer, heads in pruned.items()
        )
        lines += [f"Attention heads that were removed: {removed}.", ""]
    if facts.command:
        lines += ["Made by:", "", f"    {facts.command}", ""]
    lines += ["Load it with attattr-jax:", "", "```python", "import attattr_jax as aa", ""]
    lines += ['classifier = aa.load_classifier("<this repository or folder>")', "```", ""]
    return "\n".join(lines)


def _as_code(text: str) -> str:
    """Return text from users as code in Markdown, in which nothing is markup."""
    return "`" + " ".join(text.replace("`", "'").replace("|", "/").split()) + "`"


def is_own_card(file: Path) -> bool:
    """Return whether a `README.md` is a card that was written here."""
    head = file.read_text(encoding="utf-8", errors="replace")[:2000]
    return head.startswith("---\n") and f"- {_CARD_TAG}\n" in head


def check_id(name: str) -> None:
    """Raise an InputError unless this can be the id of a repository on the Hub."""
    from huggingface_hub import errors, utils

    try:
        utils.validate_repo_id(name)
    except errors.HFValidationError as error:
        raise InputError(f"{name!r:.80} is no id of the Hub: {root_cause(error):.200}") from None


def push(folder: Path, name: str) -> str:
    """Upload a classifier's folder to the Hub, and return its address.

    Configuration, weights, tokenizer and card are uploaded; nothing that names local paths.

    Raises:
      InputError: the Hub cannot be reached, or does not take it.
    """
    import huggingface_hub

    try:
        address: Any = huggingface_hub.create_repo(name, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=name, folder_path=str(folder), allow_patterns=[*FILES, "README.md"]
        )
    except Exception as error:  # whatever the network layer raises: the remedy is the same
        raise InputError(
            f"{name}: {root_cause(error):.200}; the classifier is saved, and `hf upload {name}"
            f" {folder}` sends it later"
        ) from None
    return str(address)
