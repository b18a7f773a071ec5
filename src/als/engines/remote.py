"""A model behind an OpenAI-compatible address, as a verifier: conversations in, completions out.

    POST <address>/chat/completions   {"model", "messages", "temperature": 0, "max_tokens"}

The key in OPENAI_API_KEY, if there is one, goes along. Requests that fail on the way, and those that the server is
too busy for, are repeated with growing pauses. vLLM, llama.cpp, SGLang and the hosted services speak this protocol.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from als.engines.base import Output
from als.errors import UserError
from als.records import Completion

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

BUSY = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same request may succeed."""
UNANSWERABLE = (400, 413, 422)
"""HTTP statuses of a single request that the server will not answer, a prompt that is too long for instance."""
RETRIES = 5
"""With a pause of 1 second, some 30 seconds in all."""
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 600.0
_SHOWN = 200
"""Characters of a server's answer in a message."""


def is_address(name_or_path: str) -> bool:
    """Whether a model's name is the address of a server."""
    return name_or_path.startswith(("http://", "https://"))


class RemoteModel:
    """One model of one server; what `als.reward.verify` needs of an engine, and no more."""

    def __init__(self, address: str, model: str, *, at_once: int, pause: float = 1.0) -> None:
        """Prepare the connection; nothing is sent yet.

        Args:
            address: http://host:port, to which /v1 is added, or an address with a path, which is taken as it is.
            model: the name under which the server has the model.
            at_once: requests in flight together.
            pause: seconds before the second repetition of a request; doubled for each further one.

        Raises:
            UserError: not an address.
        """
        import requests
        from requests.adapters import HTTPAdapter, Retry

        self._model = model
        self._at_once = at_once
        self._url = f"{_base(address)}/chat/completions"
        self._session = requests.Session()
        if key := os.environ.get("OPENAI_API_KEY"):
            self._session.auth = lambda request: _authorised(request, key)
        retry = Retry(RETRIES, allowed_methods=None, status_forcelist=BUSY, backoff_factor=pause, raise_on_status=False)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=at_once))

    def check(self) -> None:
        """Ask for one token, so that a wrong address, key or name is known before a long run.

        Raises:
            UserError: the server gives no completion.
        """
        response = self._post([{"role": "user", "content": "Say yes."}], max_new_tokens=1)
        if response.status_code in UNANSWERABLE:
            raise self._trouble(f"HTTP {response.status_code}: {_shown(response)}")
        self._completion(response)

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation as JSON: the chat template is the server's."""
        return json.dumps(list(messages))

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> Iterator[tuple[int, Output]]:
        """Complete conversations, several at once; see `Engine.generate`.

        A request that the server refuses as such has an empty completion of finish reason `error`, with a warning.

        Raises:
            UserError: the server is out of reach, refuses the key or the model, or answers something else.
        """
        with ThreadPoolExecutor(self._at_once) as pool:
            yield from enumerate(pool.map(lambda prompt: self._complete(prompt, max_new_tokens), prompts))

    def _complete(self, prompt: str, max_new_tokens: int) -> Output:
        response = self._post(json.loads(prompt), max_new_tokens)
        if response.status_code not in UNANSWERABLE:
            return Output(self._completion(response), ())
        warnings.warn(f"the verifier refused a request (HTTP {response.status_code}: {_shown(response)})", stacklevel=2)
        return Output(Completion("", 0, 0, "error", 0.0), ())

    def _post(self, messages: Sequence[dict[str, str]], max_new_tokens: int) -> Response:
        import requests

        body = {"model": self._model, "messages": messages, "temperature": 0, "max_tokens": max_new_tokens}
        limits = (CONNECT_SECONDS, ANSWER_SECONDS)
        try:
            return self._session.post(self._url, json=body, timeout=limits, allow_redirects=False)
        except (requests.RequestException, OSError) as error:
            raise self._trouble(f"no answer ({error})") from error

    def _completion(self, response: Response) -> Completion:
        if response.status_code != 200:
            advice = "; set OPENAI_API_KEY to a key of that server" if response.status_code in (401, 403) else ""
            raise self._trouble(f"HTTP {response.status_code}: {_shown(response)}{advice}")
        try:
            answer = response.json()
            choice = answer["choices"][0]
            text, ended = choice["message"].get("content") or "", choice.get("finish_reason") != "length"
            usage = answer.get("usage") or {}
            asked, given = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
            if not isinstance(text, str):
                raise TypeError(f"content is {text!r}")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._trouble(f"no chat completion but {_shown(response)}") from error
        return Completion(text, asked, given, "stop" if ended else "length", response.elapsed.total_seconds())

    def _trouble(self, what: str) -> UserError:
        return UserError(
            f"the verifier {self._model!r} at {self._url!r} gave {what}; expected an OpenAI-compatible server that has "
            "this model: check --verifier_model_name_or_path and --verifier_served_model_name"
        )


def _base(address: str) -> str:
    """The address that /chat/completions is added to."""
    try:
        parts = urlsplit(address)
        valid = is_address(address) and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or parts.username:
        raise UserError(
            f"--verifier_model_name_or_path {address!r}: expected http://host:port or https://host/path, the base "
            "address of an OpenAI-compatible server"
        )
    return address.rstrip("/") if parts.path.strip("/") else f"{address.rstrip('/')}/v1"


def _authorised(request: PreparedRequest, key: str) -> PreparedRequest:
    request.headers["Authorization"] = f"Bearer {key}"
    return request


def _shown(response: Response) -> str:
    """The beginning of a server's answer, in one line without control characters."""
    text: Any = " ".join(response.text.split())
    return repr(text[:_SHOWN])
