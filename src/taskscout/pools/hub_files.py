"""Folders to and from the hub: pools as dataset repositories, trained models as model ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from taskscout.errors import TaskscoutError, first_line

#: What a pool is made of, and all that is pulled.
PATTERNS = ("*.json", "*.safetensors", "*.parquet")


def snapshot(repo_id: str, revision: str | None = None) -> Path:
    """Get the files of a pool's repository, as far as the hub's cache lacks them.

    Raises
    ------
    TaskscoutError
        If they cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo_id, repo_type="dataset", revision=revision, allow_patterns=list(PATTERNS)
            )
        )
    except Exception as error:  # the client raises what requests, tokens and the hub do
        raise _refused(f"{repo_id} could not be pulled", error) from error


def upload(
    folder: Path,
    repo_id: str,
    kind: Literal["dataset", "model"],
    *,
    private: bool = False,
    message: str,
    replaces: tuple[str, ...] = (),
) -> str:
    """Put a folder into a repository, made where it is missing; the address of the commit.

    Parameters
    ----------
    folder
        What is in it is uploaded.
    repo_id
        ``owner/name``.
    kind
        Of the repository.
    private
        Whether a repository that is made is private.
    message
        Of the commit.
    replaces
        Patterns of files that are removed where the folder has them no more.

    Raises
    ------
    TaskscoutError
        If the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True, repo_type=kind)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, repo_type=kind, commit_message=message,
            delete_patterns=list(replaces) or None,
        )  # fmt: skip
    except Exception as error:  # the client raises what requests, tokens and the hub do
        raise _refused(f"{folder.name} could not be pushed to {repo_id}", error) from error
    return str(commit.commit_url)


def _refused(what: str, error: Exception) -> TaskscoutError:
    return TaskscoutError(
        f"{what} ({type(error).__name__}: {first_line(error)}).",
        "The hub refused it or cannot be reached; nothing was changed here.",
        "Check the name (owner/name), the network and HF_HUB_OFFLINE, and log in with "
        "`hf auth login` where the repository is private or yours. A folder can also be copied as "
        "it is.",
    )
