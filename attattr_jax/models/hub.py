"""Models of the Hugging Face Hub: downloaded, from the right revision, as safetensors."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
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
