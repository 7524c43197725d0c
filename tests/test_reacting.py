"""`@live.react` and `live.plot`: in a real kernel beside a long cell, and their rules without one."""

from __future__ import annotations

import doctest
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.live_host import wait_until
from tripleweb.database import Database
from tripleweb.reacting import Reaction, joined

NAMES = "[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age]]"


def add(db: Database, name: str, age: int) -> None:
    db.insert("user", name=name, age=age)


# -- in a script ----------------------------------------------------------------------------------------------


def test_a_function_runs_again_when_its_frame_changes(db: Database) -> None:
    """ "`@live.react` re-runs a function when its frames change"."""
    live = db.live(NAMES)
    seen: list[list[str]] = []

    @live.react
    def names(df: Any) -> None:
        seen.append(sorted(df["name"]))

    assert isinstance(names, Reaction) and seen == [[]]
    add(db, "Ada", 36)
    wait_until(lambda: seen[-1] == ["Ada"])
    names.stop()
    add(db, "Bob", 41)
    assert len(live) == 2 and seen[-1] == ["Ada"]


def test_several_frames(db: Database) -> None:
    live, other = db.live(NAMES), db.live("[:find ?tag :where [_ :tag/label ?tag]]")
    seen: list[tuple[int, int]] = []
    live.react(other)(lambda people, tags: seen.append((len(people), len(tags))))
    db.insert("tag", label="x")
    wait_until(lambda: seen[-1] == (0, 1))
    add(db, "Ada", 36)
    wait_until(lambda: seen[-1] == (1, 1))
    runs: list[int] = []
    live.react(lambda: runs.append(1))  # it may as well look for itself
    assert runs == [1]


def test_an_error_is_kept_and_the_next_change_runs_it_again(
    db: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    live = db.live(NAMES)

    @live.react
    def shares(df: Any) -> float:
        return 1 / len(df)

    assert isinstance(shares.error, ZeroDivisionError)
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and "return 1 / len(df)" in said and "Traceback" not in said
    add(db, "Ada", 36)
    wait_until(lambda: shares.runs == 2)
    assert shares.error is None


def test_a_change_while_it_runs_is_seen_by_a_run_after_it(db: Database) -> None:
    """The store's thread comes while the function still runs on another: runs never nest, and none is lost."""
    live = db.live(NAMES)
    ran: list[int] = []

    @live.react
    def count(df: Any) -> None:
        ran.append(len(df))
        if not len(df):
            add(db, "Ada", 36)
            done = threading.Event()
            db._session.submit(done.set)  # behind what the change has to say
            assert done.wait(20)
            assert ran == [0]

    wait_until(lambda: ran == [0, 1])
    add(db, "Bob", 41)
    wait_until(lambda: ran == [0, 1, 2])
    assert count.error is None


def test_what_is_no_function_of_these_frames(db: Database) -> None:
    live = db.live(NAMES)
    with pytest.raises(TypeError, match="react takes a function, or the other frames"):
        live.react(1, 2)
    with pytest.raises(TypeError, match="react expects a function, not int"):
        live.react(1)
    with pytest.raises(TypeError, match="takes neither 1 frame nor nothing"):
        live.react(lambda one, two: None)

    async def fetches(df: Any) -> None: ...

    class Fetches:
        async def __call__(self, df: Any) -> None: ...

    with pytest.raises(TypeError, match="fetches is an async function"):
        live.react(fetches)
    with pytest.raises(TypeError, match="this is an async function"):
        live.react(Fetches())
    with pytest.raises(TypeError, match="<lambda> is a generator"):
        live.react(lambda df: (yield df))


def test_who_interrupts_its_first_run_is_rid_of_it(db: Database) -> None:
    live = db.live(NAMES)
    runs: list[int] = []

    def long(df: Any) -> None:
        runs.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live.react(long)
    add(db, "Ada", 36)
    heard: list[int] = []
    live.react(lambda df: heard.append(len(df)))
    add(db, "Bob", 41)
    wait_until(lambda: heard[-1] == 2)
    assert runs == [1]


def test_it_ends_with_its_frame(db: Database) -> None:
    live = db.live(NAMES)
    seen: list[int] = []
    live.react(lambda df: seen.append(len(df)))
    live.close()
    add(db, "Ada", 36)
    gc.collect()
    assert seen == [0]


def test_several_outputs_are_one() -> None:
    picture = {"text/plain": "<Figure>", "image/png": "abc"}
    assert joined([picture]) == picture
    html = joined([{"text/plain": "<b>"}, picture])["text/html"]
    assert html == '<pre>&lt;b&gt;</pre>\n<img alt="&lt;Figure&gt;" src="data:image/png;base64,abc">'
    assert joined([]) == {"text/plain": ""}


def test_a_plot_in_a_script_is_pandas_plot(db: Database) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from matplotlib.axes import Axes

    add(db, "Ada", 36)
    live = db.live(NAMES)
    assert isinstance(live.plot(x="name", y="age", kind="bar"), Axes)
    assert isinstance(live.plot.bar(x="name"), Axes)
    assert "bar" in dir(live.plot)
    with pytest.raises(AttributeError, match="no 'bars'"):
        live.plot.bars()
    pyplot.close("all")


def test_the_page_about_notebooks_says_what_is_so() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "notebook.md"
    found = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (found.attempted > 8, found.failed) == (True, 0)


# -- in a kernel ----------------------------------------------------------------------------------------------

SETUP = """import threading, time, tripleweb
db = tripleweb.open()
db.insert("user", id="ada", name="Ada", age=1)
live = db.live("[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age]]")
def later(*ages):
    def write():
        for age in ages:
            time.sleep(0.05)
            db.update("user", "ada", age=age)
    threading.Thread(target=write).start()"""


class Kernel:
    """A kernel that runs cells one after the other, with time between them."""

    def __init__(self) -> None:
        self.notebook = nbformat.v4.new_notebook()
        self.client = NotebookClient(self.notebook, timeout=100, kernel_name="python3")

    def run(self, source: str) -> Any:
        """Runs a cell, and gives it."""
        cell = nbformat.v4.new_code_cell(source)
        self.notebook.cells.append(cell)
        self.client.execute_cell(cell, len(self.notebook.cells) - 1)
        return cell

    def says(self, expression: str) -> str:
        return text(self.run(expression))

    def until(self, expression: str, expected: str = "True") -> None:
        """Asks again and again; what is between cells happens meanwhile."""
        wait_until(lambda: self.says(expression) == expected, 40)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    with kernel.client.setup_kernel():
        kernel.run(SETUP)
        yield kernel


def text(cell: Any) -> str:
    (output,) = [one for one in cell.outputs if "data" in one]
    return str(output["data"]["text/plain"])


def test_it_runs_between_cells_and_replaces_its_output(kernel: Kernel) -> None:
    """ "`@live.react`": between cells, the latest state, in place."""
    kernel.run("seen, busy = [], False")
    chart = kernel.run("@live.react\ndef chart(df):\n    seen.append(busy)\n    print('age', df['age'][0])")
    assert text(chart) == "age 1"
    kernel.run("busy = True\nlater(2, 3, 4)\ntime.sleep(0.6)\nbusy = False")
    kernel.until("'age 4' in str(chart._shown)")
    assert kernel.says("any(seen)") == "False", "it ran in the middle of a cell"
    assert int(kernel.says("chart.runs")) == 2, "three changes within a cell are one run"


def test_a_picture_follows_and_no_figure_stays_open(kernel: Kernel) -> None:
    kernel.run("import matplotlib.pyplot as plt")
    chart = kernel.run("@live.react\ndef chart(df):\n    df.plot(x='name', y='age', kind='bar')")
    (output,) = [one for one in chart.outputs if "data" in one]
    assert output["data"]["image/png"]
    kernel.run("before = chart._shown['image/png']\nlater(2, 3)")
    kernel.until("chart.runs >= 2 and chart._shown['image/png'] != before")
    kernel.until("plt.get_fignums()", "[]")
    assert kernel.says("__import__('matplotlib_inline').backend_inline.show._to_draw") == "[]"


def test_a_figure_that_cannot_be_drawn_is_an_error_like_others(kernel: Kernel) -> None:
    kernel.run("import matplotlib.pyplot as plt")
    chart = kernel.run(
        "@live.react\ndef chart(df):\n    age = df['age'][0]\n"
        r"    df.plot(x='name', y='age', kind='bar', title=r'$\wrong{$' if age == 1 else 'Ages')"
    )
    assert [one.output_type for one in chart.outputs] == ["display_data"]
    assert "ValueError" in text(chart) and "Traceback" not in text(chart)
    assert kernel.says("type(chart.error).__name__, plt.get_fignums()") == "('ValueError', [])"
    kernel.run("later(2)")
    kernel.until("chart.error is None and 'image/png' in chart._shown")
    assert kernel.says("plt.get_fignums()") == "[]"


def test_an_error_is_its_output(kernel: Kernel) -> None:
    share = kernel.run("@live.react\ndef share(df):\n    return 10 / int(df['age'][0] - 1)")
    assert "ZeroDivisionError" in text(share) and "return 10 / int" in text(share)
    kernel.run("later(3)")
    kernel.until("(share.runs, share._shown['text/plain'], share.error)", "(2, '5.0', None)")


def test_running_its_cell_again_ends_it(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_display import Shell
    from tripleweb import display, reacting

    shell = Shell()
    for module in (display, reacting):
        monkeypatch.setattr(module, "running_shell", lambda: shell)
    monkeypatch.setattr(Reaction, "_output", lambda self: {"text/plain": ""})
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    shell.events.register = lambda event, hook: None
    live = db.live(NAMES)
    first = live.react(lambda df: None)
    shell.parent = {"metadata": {"cellId": "two"}}
    reacting._cell_begins()
    assert not first.stopped
    shell.parent = {"metadata": {"cellId": "one"}}
    reacting._cell_begins()
    assert first.stopped
    reacting._cell_ended()


def test_a_plot_follows_with_its_title(kernel: Kernel) -> None:
    """It behaves in expressions like its frame (… `live.plot(…)`), and follows it."""
    kernel.run("import matplotlib.pyplot as plt\nfrom tripleweb import reacting")
    chart = kernel.run(
        "axes = live.plot(x='name', y='age', kind='bar')\naxes.set_title('Ages')\nplt.ylabel('years');"
    )
    (output,) = [one for one in chart.outputs if "data" in one]
    assert output["output_type"] == "display_data" and output["data"]["image/png"]
    kernel.run("(one,) = reacting._reactions\nbefore = one._shown['image/png']\nlater(50)")
    kernel.until("one.runs == 1 and one.error is None and one._shown['image/png'] != before")
    assert kernel.says("plt.get_fignums()") == "[]"
