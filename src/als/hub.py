"""Ask the model hub whether it can serve a repository, quickly, before a loader starts to retry.

transformers and datasets retry for a long time where there is no network. One request with a short limit
tells the cases apart, and each becomes one sentence. Knows nothing of models and data sets.
"""

from als.errors import UserError

TIMEOUT = 10.0
"""Seconds to wait for the hub's answer."""


def check_hub(repo: str, *, kind: str, instead: str) -> bool:
    """Make sure that a hub repository can be loaded.

    Args:
        repo: hub id, `owner/name` or `name`.
        kind: `model` or `dataset`.
        instead: what to give in its place, for the error's last words.

    Returns:
        True where the hub is out of reach but the repository is in the local cache: load from there.

    Raises:
        UserError: no such repository, no access to it, or no hub and no cached copy.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        HfApi().repo_info(repo, repo_type=kind, timeout=TIMEOUT)
    except HFValidationError:
        raise UserError(f"{kind} {repo!r} is neither a path here nor a hub id; give {instead}") from None
    except GatedRepoError:
        raise UserError(f"{kind} {repo!r} asks for permission: accept its terms and run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"{kind} {repo!r} is neither a path here nor on the hub; give {instead}") from None
    except (OSError, HTTPError, OfflineModeIsEnabled) as error:
        if _is_cached(repo, kind):
            return True
        raise UserError(
            f"{kind} {repo!r} is no path here and the hub is out of reach ({type(error).__name__}); give {instead}"
        ) from None
    return False


def _is_cached(repo: str, kind: str) -> bool:
    """Whether some snapshot of the repository lies in the local hub cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(repo, repo_type=kind, local_files_only=True, allow_patterns=["*.json", "README.md"])
    except LocalEntryNotFoundError:
        return False
    return True
