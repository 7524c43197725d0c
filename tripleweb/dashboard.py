"""The page at `/tripleweb`: which apps there are, who is a member of them, who is connected.

Made here, whole, as HTML without scripts. Invariants: everything that comes from people is escaped; the policy that
goes with the page lets a browser load nothing and run nothing, so that a slip in escaping stays text.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tripleweb.sync.server import Actor

Shown = tuple[Mapping[str, str | None], Mapping[str, str | None], Sequence[Actor]]

STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #5b6577; --paper: #f6f7f9; --card: #fff; --line: #dfe3ea;
  --tint: #eef1f6; --accent: #2f5bd0; --live: #1f9d61; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #9aa5b8; --paper: #14171d; --card: #1d2129;
  --line: #333a47; --tint: #272d38; --accent: #86a8ff; --live: #4ccf8e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; align-items: baseline; margin-bottom: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; }
header p { margin: 0; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.25rem;
  margin-bottom: 1rem; }
h2 { font-size: 1.1rem; margin: 0; display: flex; flex-wrap: wrap; gap: .25rem .75rem; align-items: baseline; }
h3 { font-size: .8rem; font-weight: 600; color: var(--soft); margin: 1rem 0 .25rem; }
code { font: .85em ui-monospace, monospace; color: var(--soft); font-weight: 400; }
.role { font-size: .75rem; font-weight: 600; padding: .05rem .5rem; border-radius: 1rem; background: var(--tint);
  color: var(--accent); }
ul { list-style: none; margin: 0; padding: 0; }
li { display: flex; flex-wrap: wrap; gap: 0 .6rem; align-items: baseline; padding: .2rem 0;
  border-top: 1px solid var(--tint); }
li:first-child { border-top: 0; }
li.here::before { content: ""; width: .5rem; height: .5rem; border-radius: 50%; background: var(--live);
  align-self: center; }
.soft { color: var(--soft); }
"""

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{_HASH}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
    )
)


def page(user: str, version: str, personal: bool, shown: Sequence[Shown]) -> str:
    """The page for `user`: for each app its entry (id, name, role), its members, and who is connected.

    >>> "<b>" in page("<b>", "1", True, [({"id": "a", "name": "<b>", "role": "<b>"}, {"<b>": "<b>"}, [])])
    False
    """
    count = sum(len(actors) for _, _, actors in shown)
    said = f"{_number(len(shown), 'app')}, {_number(count, 'connection')}"
    apps = "\n".join(_app(*app, personal) for app in shown)
    none = '<section class="soft">No apps yet. <code>tripleweb.connect("my-app")</code> makes one.</section>'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tripleweb</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>tripleweb</h1>
<p>{escape(said)}</p>
<p>you are {escape(user)}</p>
<p>version {escape(version)}</p>
</header>
<main>
{apps or none}
</main>
</body>
</html>
"""


def _app(
    entry: Mapping[str, str | None],
    members: Mapping[str, str | None],
    actors: Iterable[Actor],
    personal: bool,
) -> str:
    here = Counter((actor.user, actor.label, actor.role) for actor in actors)
    rows = [_member(user, role or "no access") for user, role in members.items()]
    if personal:
        rows.append('<li class="soft">everybody else who is let in <span class="role">writer</span></li>')
    connected = [_connection(*who, times) for who, times in sorted(here.items())]
    name, app = entry["name"] or "", entry["id"] or ""
    shown_id = f"<code>{escape(app)}</code>" if app != name else ""
    return f"""<section>
<h2>{escape(name)} {shown_id} {_role(f"you: {entry['role']}")}</h2>
<h3>Connected</h3>
<ul>{"".join(connected) or '<li class="soft">nobody</li>'}</ul>
<h3>Members</h3>
<ul>{"".join(rows) or '<li class="soft">administrators of this server only</li>'}</ul>
</section>"""


def _member(user: str, role: str) -> str:
    return f"<li>{escape(user)} {_role(role)}</li>"


def _connection(user: str, label: str, role: str, times: int) -> str:
    chosen = f' <span class="soft">calls itself “{escape(label)}”</span>' if label else ""
    several = f' <span class="soft">{times} connections</span>' if times > 1 else ""
    return f'<li class="here">{escape(user)}{chosen} {_role(role)}{several}</li>'


def _role(role: str) -> str:
    return f'<span class="role">{escape(role)}</span>'


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
