"""Grants and roles."""

from __future__ import annotations

import pytest

from tripleweb.access import Access, Grant, os_user
from tripleweb.storage import App


def test_a_token_opens_what_it_was_minted_for() -> None:
    access = Access("ada", {})
    token = access.mint("ada", notebook="flights.ipynb")
    grant = access.grant(token)
    assert grant is not None
    assert (grant.user, grant.notebook, grant.kernel) == ("ada", "flights.ipynb", "")
    assert grant.session


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "a" * 100_000, "\ud800", "ä" * 43])
def test_other_tokens_open_nothing(token: str) -> None:
    access = Access("ada", {})
    access.mint("ada")
    assert access.grant(token) is None


def test_tokens_differ_are_long_and_are_not_kept() -> None:
    access = Access("ada", {})
    tokens = {access.mint("ada") for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43
    assert not any(token in repr(vars(access)) for token in tokens)


def test_a_revoked_token_opens_nothing_and_others_go_on() -> None:
    access = Access("ada", {})
    one, other = access.mint("ada"), access.mint("ada")
    held = access.grant(one)
    assert access.revoke(one) == held
    assert access.revoke(one) is None
    assert access.grant(one) is None
    assert access.grant(other) is not None


def test_a_shared_token_has_no_session_of_its_own() -> None:
    access = Access("ada", {})
    shared = access.grant(access.mint("ada", shared=True))
    assert shared == Grant("ada")
    assert len({access.grant(access.mint("ada")).session for _ in range(5)}) == 5


def test_tokens_from_elsewhere_are_accepted_if_they_can_be_secrets() -> None:
    access = Access("ada", {})
    assert access.accept("chosen-by-ada", Grant("ada")) == "chosen-by-ada"
    assert access.grant("chosen-by-ada") == Grant("ada")
    for weak in ("", "short", "x" * 201):
        with pytest.raises(ValueError, match="8 to 200"):
            access.accept(weak, Grant("ada"))


def test_grants_end_with_their_kernels() -> None:
    access = Access("ada", {})
    tokens = [access.mint("ada") for _ in range(3)]
    access.bind(tokens[0], "k0")
    access.bind(tokens[1], "k1")
    access.bind("no token at all", "k1")
    gone = access.sweep(lambda kernel: kernel == "k0")
    assert [grant.kernel for grant in gone] == ["k1"]
    assert [access.grant(token) is not None for token in tokens] == [True, False, True]


def test_a_kernel_whose_notebook_was_renamed_has_one_notebook() -> None:
    """The running kernel keeps its token; the new one is for its next start."""
    access = Access("ada", {})
    old, new = access.mint("ada", notebook="a.ipynb"), access.mint("ada", notebook="b.ipynb")
    access.bind(old, "k")
    access.bind(new, "k")
    assert [access.grant(token).notebook for token in (old, new)] == ["b.ipynb", "b.ipynb"]


APPS = {
    "notes": App("notes", "Notes", 0, {"bob": "reader", "cy": "admin", "dan": "writer", "odd": "emperor"})
}


@pytest.mark.parametrize(
    ("user", "app", "personal", "shared"),
    [
        ("ada", "notes", "admin", None),  # ada owns the server
        ("ada", "other", "admin", None),
        ("bob", "notes", "reader", "reader"),
        ("cy", "notes", "admin", "admin"),
        ("dan", "notes", "writer", "writer"),
        ("eve", "notes", "writer", None),
        ("bob", "other", "writer", None),
        ("odd", "notes", None, None),  # a role that this version does not know gives nothing
    ],
)
def test_roles(user: str, app: str, personal: str | None, shared: str | None) -> None:
    assert Access("ada", APPS).role(user, app) == personal
    assert Access("ada", APPS, personal=False).role(user, app) == shared


def test_roles_follow_the_registry() -> None:
    apps = dict(APPS)
    access = Access("ada", apps)
    apps["notes"] = apps["notes"].patched(None, {"bob": "admin"})
    assert access.role("bob", "notes") == "admin"
    apps["notes"] = apps["notes"].patched(None, {"bob": None})
    assert access.role("bob", "notes") == "writer"


def test_the_user_of_the_operating_system_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os_user() == os_user() != ""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert os_user().startswith("user")
