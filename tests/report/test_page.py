from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import ChoiceLoader, FileSystemLoader
from support.html_page import HOSTILE, Page, page
from support.made_qa_run import made_qa_run
from support.made_run import made_run
from support.made_scored_run import made_scored_run
from support.made_tradeoff_run import made_tradeoff_run
from support.made_trained_run import made_trained_run

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.report import page as module
from ray_pipeline.report import write_report
from ray_pipeline.report.page import ORDER, SECTIONS
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.ledger import Ledger

#: Attributes that make a browser fetch something.
FETCHING = {"src", "srcset", "href", "data", "action", "poster", "background", "xlink:href"}
ALWAYS = {"account", "reasons", "changes", "effort", "counts", "failures", "configuration"}


def test_is_one_file_that_refers_to_nothing_outside(tmp_path: Path) -> None:
    found = page(made_run(str(tmp_path)))
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & found.names
    for tag, attributes in found.tags:
        for name in FETCHING & attributes.keys():
            assert (attributes[name] or "").startswith("#"), (tag, attributes)
    assert "url(" not in found.style and "@import" not in found.style


def test_every_file_of_the_folder_is_a_section_of_the_page() -> None:
    folder = Path(module.__file__).parent / "sections"
    stems = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(ORDER) == stems and len(ORDER) == len(stems)
    assert {path.name for path in folder.glob("*.j2")} == {f"{stem}.html.j2" for stem in stems}
    assert [section.template for section in SECTIONS] == [f"{name}.html.j2" for name in ORDER]
    assert len({section.anchor for section in SECTIONS}) == len(SECTIONS)


def test_the_contents_link_to_every_section(tmp_path: Path) -> None:
    found = page(made_qa_run(str(tmp_path), 60))
    links = [str(attributes["href"]) for tag, attributes in found.tags if tag == "a"]
    assert links == [f"#{anchor}" for anchor in found.sections]
    assert [s.anchor for s in SECTIONS if s.anchor in found.sections] == found.sections


def test_a_new_section_is_its_two_files_and_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sizes.html.j2").write_text("<p>{{ section | count }} units</p>")
    templates = module._templates()
    assert templates.loader is not None
    loaders = [templates.loader, FileSystemLoader(tmp_path)]
    monkeypatch.setattr(templates, "loader", ChoiceLoader(loaders))
    section = Section("sizes", "Units", "sizes.html.j2", lambda reader: len(reader.units))
    monkeypatch.setattr(module, "SECTIONS", [*SECTIONS, section])
    found = page(made_run(str(tmp_path / "run")))
    assert found.sections[-1] == "sizes" and found.sections.count("sizes") == 1
    assert found.words.count("Units") == 2 and "Units 2 units Written by" in found.words


def test_runs_of_every_kind_have_the_sections_of_their_kind(tmp_path: Path) -> None:
    def shown(run: object) -> set[str | None]:
        anchors = set(page(run).sections)  # type: ignore[arg-type]
        assert anchors >= ALWAYS
        return anchors - ALWAYS

    folder = str(tmp_path)
    assert shown(made_run(f"{folder}/a")) == {"lengths"}
    qa = {"map", "duplicates", "shared-texts", "versions", "lengths"}
    assert shown(made_qa_run(f"{folder}/b", 60)) == qa
    subsets = {"write-subsets": {"subsets": {"high": {"rows": 5}}}}
    assert shown(made_scored_run(f"{folder}/c", metrics=subsets)) == {"scorers", "subsets"}
    trained = {"lengths", "search", "training", "evaluation", "samples", "published"}
    assert shown(made_trained_run(f"{folder}/d")) == trained
    experiment = {"lengths", "tradeoff", "worth", "completions", "published"}
    assert shown(made_tradeoff_run(f"{folder}/e")) == experiment


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    found = page(made_run(str(tmp_path), HOSTILE))
    assert not {"script", "img", "b"} & found.names
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
    assert "script" not in found.names
    for letter in "xrcdm":
        assert f"<script>{letter}</script>" in found.text


def test_the_head_names_the_run_and_its_totals(tmp_path: Path) -> None:
    words = page(made_run(str(tmp_path))).words
    assert "made-run Status succeeded" in words and "1 min 13 s" in words
    assert "Python 3.11.2, ray 2.60.0, pyarrow 26.0.1 Seed7" in words
    # Eight rows, two dropped, one failed; five are doubled.
    for total in ("rows read8", "created5", "kept10", "dropped2", "failed1"):
        assert total in words
    assert "model answers6" in words and "tokens78" in words and "cost$1.50" in words


def test_a_run_without_rows(tmp_path: Path) -> None:
    assert "No row was dropped" in page(made_run(str(tmp_path), [])).text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    Ledger("made").save(storage)
    text = Page(Path(write_report(storage)).read_text()).text
    assert "running" in text and "No stage has committed anything yet" in text
    assert "No row has left yet" in text and "Nothing has run yet" in text


@pytest.mark.parametrize("make", [made_run, made_qa_run, made_trained_run])
def test_is_the_same_when_written_again(tmp_path: Path, make: object) -> None:
    run = make(str(tmp_path))  # type: ignore[operator]
    first = Path(write_report(run.storage)).read_bytes()
    assert Path(write_report(run.storage)).read_bytes() == first


def test_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        write_report(Storage(str(tmp_path)))


@pytest.mark.parametrize("make", [made_run, made_qa_run, made_trained_run, made_scored_run])
def test_opens_each_file_of_rows_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object
) -> None:
    run = make(str(tmp_path))  # type: ignore[operator]
    opened: list[str] = []
    open_file = Storage.open

    def counted(self: Storage, path: str) -> object:
        opened.append(path)
        return open_file(self, path)

    monkeypatch.setattr(Storage, "open", counted)
    write_report(run.storage)
    parts = [path for path in opened if "/rows/part-" in path]
    # Once for its rows; one part of each segment a second time, to see which stages are in it.
    assert len(set(parts)) >= len(run.units)
    assert len(parts) - len(set(parts)) <= len(ReportReader(run.storage.root).segments)
