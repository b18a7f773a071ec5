"""An OpenAI-compatible server in a process of its own: `python chat_server.py MODEL` prints its port.

/v1 answers with the real model. /flaky/v1 is busy at every first request of a conversation, /denied/v1 wants another
key, /broken/v1 sends no JSON, /other/v1 sends other JSON, /strict/v1 refuses long prompts, /moved/v1 redirects, and
/true/v1 says "Verdict: True" to everything, without token counts.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOCK = threading.Lock()
SEEN: set[str] = set()
ENGINES: list[Any] = []


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion by the real model, which is loaded at the first request."""
    if not ENGINES:
        from als.engines.transformers_engine import TransformersEngine
        from als.models import load_model

        ENGINES.append(TransformersEngine(*load_model(sys.argv[1], dtype="float32", device="cpu"), batch_size=1))
    [engine] = ENGINES
    prompt = engine.render(body["messages"])
    [(_, output)] = engine.generate([prompt], max_new_tokens=body["max_tokens"])
    done = output.completion
    usage = {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}
    return completion(done.text, finish_reason=done.finish_reason, usage=usage)


def completion(text: str, *, finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"object": "chat.completion", "model": "smol", "choices": [choice], **more}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(text)
        kind = self.path.removesuffix("/chat/completions").removesuffix("/v1").strip("/")
        with LOCK:
            first = text.decode() not in SEEN
            SEEN.add(text.decode())
            if kind == "flaky" and first:
                self.send(500, "try again")
            elif kind == "denied" and self.headers["Authorization"] != "Bearer right":
                self.send(401, json.dumps({"error": {"message": "no such key"}}))
            elif kind == "broken":
                self.send(200, '{"choices": [')
            elif kind == "other":
                self.send(200, '{"detail": "hello"}')
            elif kind == "moved":
                self.send(301, "elsewhere")
            elif kind == "strict" and len(text) > 400:
                self.send(400, "prompt is too long")
            elif body["model"] != "smol" or body["temperature"] != 0:
                self.send(404, f"no model {body['model']}")
            else:
                self.send(200, json.dumps(completion("Verdict: True") if kind == "true" else answer(body)))

    def send(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
