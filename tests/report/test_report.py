from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pyarrow.compute as pc
import pytest
from support.made_run import FOLDERS, TEXTS, MadeRun, made_run

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.core.storage import Storage
from ray_pipeline.report import write_report
from ray_pipeline.report.content import _status
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.ledger import Ledger
from ray_pipeline.rundir.parts import read_rows, write_part
from ray_pipeline.rundir.reader import RunReader

HOSTILE = [
    "<script>alert(1)</script>",
    '" onload="alert(1)" x=\'',
    "</style><img src=http://evil.example/x.png>",
    "{{ 7 * 7 }}{% raw %}",
    "spam <b onclick=alert(1)>\x1b[31m\x00\u202e",
    "boom javascript:alert(1) <svg/onload=alert(1)>",
]
#: Attributes that make a browser fetch something.
FETCHING = {"src", "srcset", "href", "data", "action", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """What a report consists of: its elements, its attributes and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.style += data
        else:
            self.text += data


def page(run: MadeRun) -> Page:
    return Page(Path(write_report(run.storage)).read_text(encoding="utf-8"))


def test_is_one_file_that_refers_to_nothing_outside(tmp_path: Path) -> None:
    found = page(made_run(str(tmp_path)))
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {
        tag for tag, _ in found.tags
    }
    for tag, attributes in found.tags:
        for name in FETCHING & attributes.keys():
            assert (attributes[name] or "").startswith("#"), (tag, attributes)
    assert "url(" not in found.style and "@import" not in found.style


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    found = page(made_run(str(tmp_path), HOSTILE))
    names = {tag for tag, _ in found.tags}
    assert not {"script", "img", "b"} & names
    assert len([tag for tag, _ in found.tags if tag == "style"]) == 1
    assert not [a for _, attributes in found.tags for a in attributes if a.startswith("on")]
    assert "<svg/onload=alert(1)>" in found.text  # of the failed row, as text
    assert "\x1b" not in found.text and "\x00" not in found.text


def test_hostile_names_and_messages_stay_texts(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.storage.write_bytes("config.yaml", b"name: '<script>x</script>'\n")
    run.accounts["tidy"].reasons = {"<script>r</script>": 2}
    run.accounts["tidy"].counts = {"<script>c</script>": 2}
    run.ledger.run = "<script>d</script>"
    found = page(run.save("failed", "<script>m</script>"))
    assert "script" not in {tag for tag, _ in found.tags}
    for letter in "xrcdm":
        assert f"<script>{letter}</script>" in found.text


def test_shows_every_stage_reason_and_count_of_the_ledger(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    text = page(run).text
    for account in run.accounts.values():
        assert account.name in text
        for reason in account.reasons:
            assert reason in text
        for name in account.counts:
            assert name in text
    assert "$1.50" in text  # six answers at a quarter
    assert "$250.00" in text  # for a thousand rows
    assert "tiny-writer" in text


def test_shows_rows_before_and_after_and_where_they_rest(tmp_path: Path) -> None:
    found = page(made_run(str(tmp_path)))
    assert "two spam" in found.text and "six spam" in found.text
    assert "too short" in found.text  # the failure's detail
    assert "judged unusable" in found.text  # and the raw answer
    assert found.text.count("rewritten") >= 3
    assert "ins" in {tag for tag, _ in found.tags}


def test_a_right_account_has_no_alarm(tmp_path: Path) -> None:
    text = page(made_run(str(tmp_path))).text
    assert "off by" not in text and "does not add up" not in text


def test_shows_where_the_account_is_wrong(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.accounts["tidy"].dropped -= 1
    text = page(run.save()).text
    assert "off by 1" in text
    assert "does not add up" in text


def test_shows_rows_that_were_lost_between_stages(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.accounts["tidy"].kept += 2
    run.accounts["tidy"].dropped -= 2
    text = page(run.save()).text
    assert "2 not read" in text
    assert "does not add up" in text


def test_an_interrupted_run_shows_what_is_to_come(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), TEXTS, ask_units=1).save("interrupted", "stopped by the user")
    text = page(run).text
    assert "interrupted" in text and "stopped by the user" in text
    assert "3 to come" in text
    assert "does not add up" not in text


def test_a_run_without_rows(tmp_path: Path) -> None:
    text = page(made_run(str(tmp_path), [])).text
    assert "No row was dropped" in text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    Ledger("made").save(storage)
    text = Page(Path(write_report(storage)).read_text()).text
    assert "running" in text and "No stage has committed anything yet" in text


def test_is_the_same_when_written_again(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    first = Path(write_report(run.storage)).read_bytes()
    assert Path(write_report(run.storage)).read_bytes() == first


def test_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        write_report(Storage(str(tmp_path)))


def test_what_became_of_rows_is_read_from_the_rows(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    account, unit = run.accounts["ask"], run.units[0]
    path = part_path(FOLDERS["ask"], unit.unit_id)
    rows = read_rows(run.storage, path)
    first = pc.equal(rows["row_id"], rows["row_id"][0])
    out = drop(rows, first, "llm:declined: it would not say")
    out = set_column(out, "stage", pc.if_else(first, "ask", out["stage"]))
    accounts = [StageAccount.of("ask", rows.num_rows, out)]
    write_part(run.storage, path, out, fingerprint="print-ask", input_digest="", accounts=accounts)
    account.kept, account.dropped, account.reasons["llm:declined"] = account.kept - 1, 1, 1
    run.save()
    reader = RunReader(str(tmp_path))
    assert _status(reader, account, "llm:declined") == "dropped"
    assert _status(reader, account, "llm:unusable") == "failed"
