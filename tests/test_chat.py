"""Chat templates: where the answer begins, what a prefill adds, whose date is shown, and which arguments pass."""

import copy

import pytest

from als.answers.thinking import answer_part, opened_block
from als.errors import UserError
from als.prompts.chat import ChatTemplate


def test_chat_ends_where_the_answer_begins(smollm2):
    text = ChatTemplate(smollm2[1]).render(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    )
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


def test_template_without_system_turn_gets_its_text_with_the_user(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = NO_SYSTEM
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
    assert ChatTemplate(tokenizer).render([system, user]) == "<user>Be brief.\n\nHi</><model>"
    assert ChatTemplate(tokenizer).render([user]) == "<user>Hi</><model>"
    more = [{"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "2+2"}]
    rendered = ChatTemplate(tokenizer).render([system, user, *more])
    assert rendered == "<user>Be brief.\n\nHi</><assistant>Yes?</><user>2+2</><model>"


def test_braces_in_a_question_are_text(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = NO_SYSTEM
    assert ChatTemplate(tokenizer).render([{"role": "user", "content": r"\frac{1}{2} {{ 7*7 }}"}]) == (
        r"<user>\frac{1}{2} {{ 7*7 }}</><model>"
    )


# --- Templates by what they say before an answer.

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
NEITHER = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
USER = [{"role": "user", "content": "2+2 [[prefill]]"}]
PREFILL = '{"thought process": "'


@pytest.mark.parametrize(
    ("source", "begins"),
    [
        (CHATML, "<|im_start|>user\n2+2 [[prefill]]<|im_end|>\n<|im_start|>assistant\n"),
        (INST, "[INST] 2+2 [[prefill]] [/INST] "),
        (NEITHER, "user: 2+2 [[prefill]]\nassistant: "),
    ],
)
def test_a_prefill_is_the_beginning_of_the_assistants_turn(tiny_tokenizer, source, begins):
    """With a generation prompt, without one as Mistral, and where only an assistant's turn shows the header."""
    assert with_template(tiny_tokenizer, source).render(USER, prefill=PREFILL) == begins + PREFILL


def with_template(tokenizer, source, arguments=None):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer, arguments)


# --- The date. As Llama 3.1 asks for it, and as gpt-oss does.

LLAMA = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }} {{ messages[0]['content'] }}"
)
GPT_OSS = "Today: {{ strftime_now('%Y-%m-%d') }} {{ messages[0]['content'] }}"


def test_the_date_is_the_same_on_every_day(tiny_tokenizer):
    assert with_template(tiny_tokenizer, LLAMA).render(USER).startswith("Today: 26 Jul 2024 ")
    assert with_template(tiny_tokenizer, GPT_OSS).render(USER).startswith("Today: 2024-07-26 ")


def test_arguments_override_the_date(tiny_tokenizer):
    named = with_template(tiny_tokenizer, LLAMA, {"date_string": "1 May 2025"})
    assert named.render(USER).startswith("Today: 1 May 2025 ")
    computed = with_template(tiny_tokenizer, GPT_OSS, {"strftime_now": "2025-05-01"})
    assert computed.render(USER).startswith("Today: 2025-05-01 ")
    with pytest.raises(UserError, match="strftime_now 'today': expected a date such as"):
        with_template(tiny_tokenizer, GPT_OSS, {"strftime_now": "today"})


def test_the_hash_is_the_templates(tiny_tokenizer):
    assert with_template(tiny_tokenizer, LLAMA).hash != with_template(tiny_tokenizer, GPT_OSS).hash
    other_day = with_template(tiny_tokenizer, GPT_OSS, {"strftime_now": "2025-05-01"})
    assert other_day.hash == with_template(tiny_tokenizer, GPT_OSS).hash
    assert len(other_day.hash) == 16


# --- Arguments.

QWEN3 = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
)


def test_enable_thinking_reaches_the_template(tiny_tokenizer):
    thinking, not_thinking = (with_template(tiny_tokenizer, QWEN3, {"enable_thinking": on}) for on in (True, False))
    assert thinking.render(USER).endswith("<|im_start|>assistant\n")
    assert not_thinking.render(USER, prefill="{").endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n{")


@pytest.mark.parametrize("name", ["enable_thinkng", "tokenize", "add_generation_prompt", "messages_"])
def test_arguments_that_the_template_does_not_use_are_refused(tiny_tokenizer, name):
    with pytest.raises(UserError, match=f"--chat_template_kwargs '{name}': the model's chat template does not use it"):
        with_template(tiny_tokenizer, QWEN3, {name: False})


# --- Reasoning blocks.


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("So 4.", "So 4."),
        ("<think>2+2 is 5?</think>So 4.", "So 4."),
        ("2+2 is 5?\n</think>\n\nSo 4.", "\n\nSo 4."),  # the template opened the block
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>2+2 is \\boxed{5}", None),
        ("<think>a</think>4<think>no, 5", None),
        ("", ""),
    ],
)
def test_the_answer_is_what_follows_the_reasoning(completion, answer):
    assert answer_part(completion) == answer


def test_a_block_that_the_prompt_opens():
    assert opened_block("assistant\n<think>\n") == "<think>\n"
    assert opened_block("assistant\n<think>\n\n</think>\n\n") == ""
    assert opened_block("") == ""


def test_a_template_that_refuses_every_form_is_one_sentence(tiny_tokenizer):
    template = with_template(tiny_tokenizer, "{{ raise_exception('no') }}")
    with pytest.raises(UserError, match="the model's chat template refuses the conversation: no"):
        template.render([{"role": "system", "content": "Be brief."}, *USER])
