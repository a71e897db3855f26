"""Prompt files: examples as earlier turns of the chat."""

import pickle

import jinja2
import pytest

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.prompt import Prompt

FILE = """
system: You rewrite.
user: "Rewrite: {{ text }}"
examples:
  - {user: "{% if kind == 'question' %}Rewrite: Who?{% endif %}", assistant: "Which person?"}
  - {user: "Rewrite: It rains.", assistant: "Rain falls ({{ kind }})."}
"""


@pytest.fixture
def prompt(tmp_path):
    (tmp_path / "p.yaml").write_text(FILE)
    return Prompt.load(tmp_path / "p.yaml")


def test_examples_are_earlier_turns(prompt):
    said = prompt.render(text="Why?", kind="question")
    assert [(m["role"], m["content"]) for m in said] == [
        ("system", "You rewrite."),
        ("user", "Rewrite: Who?"),
        ("assistant", "Which person?"),
        ("user", "Rewrite: It rains."),
        ("assistant", "Rain falls (question)."),
        ("user", "Rewrite: Why?"),
    ]
    assert pickle.loads(pickle.dumps(prompt)).render(text="Why?", kind="question") == said


def test_an_example_whose_user_part_is_empty_is_left_out(prompt):
    assert len(prompt.render(text="Why.", kind="answer")) == 4


def test_examples_are_part_of_the_prompt(prompt, tmp_path):
    assert prompt.variables() == {"text", "kind"}
    (tmp_path / "p.yaml").write_text(prompt.to_yaml())
    assert Prompt.load(tmp_path / "p.yaml") == prompt
    (tmp_path / "without.yaml").write_text("system: You rewrite.\nuser: 'Rewrite: {{ text }}'\n")
    without = Prompt.load(tmp_path / "without.yaml").identity()
    assert "examples" not in without  # fingerprints of prompts without examples stay as they were
    assert without != prompt.identity()


def test_a_broken_example_is_a_broken_prompt(tmp_path):
    (tmp_path / "p.yaml").write_text(FILE.replace("{{ kind }}", "{{ kind"))
    with pytest.raises(UserError, match="template"):
        Prompt.load(tmp_path / "p.yaml")


def test_variables_are_what_rendering_needs(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "system: '{% if hint is defined %}{{ hint }}{% endif %} {{ tone | default(\"calm\") }}'\n"
        "user: '{% for i in range(n) %}{{ i }}: {{ text }}{% endfor %}'\n"
    )
    prompt = Prompt.load(tmp_path / "p.yaml")
    assert prompt.variables() == {"n", "text"}
    assert prompt.render(n=1, text="a")[-1]["content"] == "0: a"
    with pytest.raises(jinja2.UndefinedError):
        prompt.render(n=1)
