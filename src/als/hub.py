"""Ask the model hub whether it can serve a repository, quickly, before a loader starts to retry.

transformers and datasets retry for half a minute where names do not resolve, and for minutes where packets
vanish. One request with a short limit tells the cases apart. Knows nothing of models and data sets.
"""

import threading

REQUEST_SECONDS = 10.0
"""For one request; it counts for each address of the hub."""
SECONDS = 20.0
"""For the answer, all addresses together."""


def hub_trouble(repo: str, *, kind: str) -> str | None:
    """Why the hub cannot give a repository; None if it can.

    Args:
        repo: hub id, `owner/name` or `name`.
        kind: `model` or `dataset`.
    """
    answers: list[str | None] = []
    # In a thread that is left behind when it takes too long: a request cannot be ended from outside.
    thread = threading.Thread(target=lambda: answers.append(_ask(repo, kind)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answers[0] if answers else f"the hub did not answer within {SECONDS:.0f} seconds"


def _ask(repo: str, kind: str) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        HfApi().repo_info(repo, repo_type=kind, timeout=REQUEST_SECONDS)
    except HFValidationError:
        return "that is not the form of a hub id"
    except GatedRepoError:
        return "the hub asks for permission: accept its terms there and run `hf auth login`"
    except RepositoryNotFoundError:
        return f"the hub has no {kind} of that id, or it is not open to you"
    except OfflineModeIsEnabled:
        return "offline mode is on"
    except (OSError, HTTPError) as error:
        return f"the hub is out of reach: {first_line(error)}"
    return None


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
