from __future__ import annotations

import types

import pytest

from local.patches.rewriting import MinistackChanged, replace_text, rewrite, wrap


def a_module() -> types.ModuleType:
    module = types.ModuleType("emulated")
    module.greet = greet  # type: ignore[attr-defined]
    return module


def greet(name: str) -> str:
    return "hello " + name


def test_a_patch_that_finds_its_text_replaces_it() -> None:
    assert replace_text("greeting", "one two", "two", "three") == "one three"


@pytest.mark.parametrize("text", ["nothing here", "two and two"])
def test_a_patch_that_does_not_fit_names_itself(text: str) -> None:
    with pytest.raises(MinistackChanged, match="greeting"):
        replace_text("greeting", text, "two", "three")


def test_a_changed_signature_is_noticed() -> None:
    module = a_module()
    with pytest.raises(MinistackChanged, match="politeness.*greet"):
        wrap("politeness", module, "greet", "(name, title)", lambda original: original)
    wrap("politeness", module, "greet", "(name: 'str') -> 'str'", lambda original: lambda name: original(name) + "!")
    assert module.greet("you") == "hello you!"


def test_a_missing_function_is_noticed() -> None:
    with pytest.raises(MinistackChanged, match="emulated has no farewell"):
        rewrite("farewell", a_module(), "farewell", {})


def test_a_rewritten_function_lives_in_its_own_module() -> None:
    module = a_module()
    rewrite("politeness", module, "greet", {'"hello "': '"hello " + _title + " "'}, given={"_title": "dear"})
    assert module.greet("you") == "hello dear you"
