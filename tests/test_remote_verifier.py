"""Verdicts of a second model: loaded here, or behind the address of a real server with a real model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.cli import collect_states
from als.engines.remote import RemoteModel
from als.engines.transformers_engine import TransformersEngine
from als.errors import UserError
from als.prompts.verifier import CHECKS, verifier_messages
from als.reward import verify
from als.runlog import read_lines

NEW = 13
QUESTION = ("What is 6 * 7?", "The answer is 42.")


@pytest.fixture(scope="module")
def server(smollm2_path) -> Iterator[str]:
    """The server's address, without a path."""
    command = [sys.executable, str(Path(__file__).with_name("chat_server.py")), str(smollm2_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.terminate()
    process.wait(timeout=20)


def remote(address: str, *, at_once: int = 4, model: str = "smol") -> RemoteModel:
    return RemoteModel(address, model, at_once=at_once, pause=0)


def asked() -> list[list[dict[str, str]]]:
    return [verifier_messages(check, question=QUESTION[0], completion=QUESTION[1]) for check in CHECKS]


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_an_address_with_or_without_a_path(server, path) -> None:
    remote(f"{server}{path}").check()


def test_a_busy_server_answers_in_the_end_as_its_model_does_here(server, smollm2) -> None:
    """The first request of each conversation has the status 500."""
    engine, there = TransformersEngine(*smollm2, batch_size=4), remote(f"{server}/flaky/v1")
    completions = {}
    for name, model in (("here", engine), ("there", there)):
        outputs = dict(model.generate([model.render(messages) for messages in asked()], max_new_tokens=NEW))
        completions[name] = [outputs[i].completion for i in range(len(CHECKS))]
    for ours, theirs in zip(completions["here"], completions["there"], strict=True):
        assert theirs.text == ours.text != ""
        assert theirs.finish_reason == ours.finish_reason
        assert (theirs.prompt_tokens, theirs.completion_tokens) == (ours.prompt_tokens, ours.completion_tokens)


def test_the_key_is_sent(server, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    remote(f"{server}/denied/v1").check()
    for key in ("wrong", ""):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match=r"HTTP 401.*no such key.*OPENAI_API_KEY") as caught:
            remote(f"{server}/denied/v1").check()
        assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "model", "words"),
    [
        ("/broken/v1", "smol", "no chat completion but '{\"choices\": ['"),
        ("/other/v1", "smol", 'no chat completion but \'{"detail": "hello"}\''),
        ("/moved/v1", "smol", "HTTP 301"),
        ("", "gpt", "HTTP 404: 'no model gpt'"),
    ],
)
def test_what_a_server_does_wrong_is_one_sentence(server, path, model, words) -> None:
    there = remote(f"{server}{path}", model=model)
    for ask in (there.check, lambda: verify(there, [QUESTION], max_new_tokens=NEW)):
        with pytest.raises(UserError) as caught:
            ask()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "--verifier_served_model_name" in str(caught.value)


def test_a_refused_request_has_no_verdict(server) -> None:
    """A prompt that is too long for the server does not end the run."""
    there = remote(f"{server}/strict/v1")
    there.check()
    with pytest.warns(UserWarning, match="HTTP 400: 'prompt is too long'"):
        assert verify(there, [QUESTION], max_new_tokens=NEW) == [dict.fromkeys(CHECKS)]


def test_no_server_and_no_address() -> None:
    with pytest.raises(UserError, match="no answer"):
        remote("http://127.0.0.1:9").check()
    for address in ("http://", "http://a:b/v1", "http://me:secret@host/v1", "https://host/v1?x=1"):
        with pytest.raises(UserError, match="--verifier_model_name_or_path"):
            remote(address)


# --- The command


def collected(tiny_path: str, output: Path, *more: str) -> tuple[int, Path]:
    """Exit code, and the folder of the latest collection."""
    options = ["--model_name_or_path", tiny_path, "--dtype", "float32", "--device", "cpu", "--dataset", "arithmetic"]
    options += ["--max_new_tokens", str(NEW), "--end_data_idx", "2", "--batch_size", "4", "--output_dir", str(output)]
    code = collect_states.main([*options, *more])
    folders = sorted(output.glob("*/state_collection/*"), key=lambda folder: folder.stat().st_mtime)
    return code, folders[-1] if folders else output


def test_a_second_model_gives_the_verdicts_from_here_or_from_a_server(
    server, smollm2, smollm2_path, tiny_path, tmp_path, capsys
) -> None:
    name = "--verifier_model_name_or_path"
    code, here = collected(tiny_path, tmp_path, name, str(smollm2_path))
    assert code == 0
    assert here.name == "prompt0_thresh3_SmolLM2-135M-Instruct"
    served = ("--verifier_served_model_name", "smol")
    code, there = collected(tiny_path, tmp_path, name, f"{server}/true/v1", *served)
    assert code == 0
    assert there.name == "prompt0_thresh3_smol"
    lines = {folder: read_lines(folder / "examples.jsonl") for folder in (here, there)}
    assert [line.details["verdicts"] for line in lines[there]] == [dict.fromkeys(CHECKS, True)] * 2
    assert [line.details["label"] for line in lines[there]] == ["good"] * 2
    answers = [(line.question, line.completion) for line in lines[here]]
    expected = verify(TransformersEngine(*smollm2, batch_size=4), answers, max_new_tokens=NEW)
    assert [line.details["verdicts"] for line in lines[here]] == expected
    configs = {folder: json.loads((folder / "config.json").read_text()) for folder in (here, there)}
    assert configs[here]["model"] == tiny_path
    assert configs[here]["verifier_model"] == str(smollm2_path)
    assert configs[there]["verifier_model"] == "smol"
    assert server not in (there / "config.json").read_text()  # servers move
    assert collected(tiny_path, tmp_path, name, f"{server}/v1", *served, "--resume")[0] == 0
    _, own = collected(tiny_path, tmp_path)
    assert own.name == "prompt0_thresh3"
    assert not any("verifier" in field for field in json.loads((own / "config.json").read_text()))
    capsys.readouterr()
    assert collected(tiny_path, tmp_path, name, f"{server}/broken/v1", *served, "--run_name", "never")[0] == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("*/state_collection/*never"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--verifier_model_name_or_path", "x", "--label_by", "answer"), "--label_by answer"),
        (("--verifier_model_name_or_path", "http://localhost:1"), "--verifier_served_model_name"),
        (("--verifier_served_model_name", "x"), "--verifier_model_name_or_path"),
        (("--verifier_model_name_or_path", "x", "--verifier_served_model_name", "x"), "address"),
        (("--verifier_model_name_or_path", "./no/such/folder"), "no/such/folder"),
    ],
)
def test_what_contradicts_itself(options, words, tiny_path, tmp_path, capsys) -> None:
    assert collected(tiny_path, tmp_path, *options)[0] == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())
