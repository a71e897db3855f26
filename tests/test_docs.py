"""What the documents say is there: files, links, commands, targets and configuration keys."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from support.command import REPOSITORY

from docs import generate_reference as reference
from ray_pipeline.engine.config import RunConfig, config_type

PACKAGES = {path.parent.name for path in (REPOSITORY / "ray_pipeline").glob("*/__init__.py")}
DOCS = REPOSITORY / "docs"
TOP = {"ray_pipeline", "jobs", "configs", "docs", "tests", "benchmarks", "samples"}
#: What a reader is to put in: ``configs/prompts/JOB/NAME.yaml``, ``jobs/my_job.py``.
PLACEHOLDER = re.compile(r"(^|[/._-])(my[_.-]|(?!README)[A-Z]+([/.]|$)|<|\.\.\.)")
ROOT_FILES = re.compile(
    r"^[A-Z][A-Za-z]*\.md$|^(Makefile|LICENSE|pyproject\.toml|constraints\.txt)$"
)


def documents() -> list[Path]:
    return sorted([*REPOSITORY.glob("*.md"), *files_with(".md")])


def files_with(*suffixes: str) -> list[Path]:
    """The files of the repository with one of these suffixes, but for those at its top."""
    found = [path for folder in sorted(TOP) for path in (REPOSITORY / folder).rglob("*")]
    return [path for path in found if path.suffix in suffixes]


def lines(document: Path) -> Iterator[tuple[str, str]]:
    """Each line with the place to name when it is wrong."""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        yield f"{document.relative_to(REPOSITORY)}:{number}", line


def paths_in(line: str) -> Iterator[str]:
    """What looks like a path of the repository, or of the package without ``ray_pipeline/``."""
    for token in re.findall(r"[\w.*/-]*\w/[\w.*/-]+|(?<=`)[\w.]+(?=`)", line):
        token = token.rstrip(".").removeprefix("./")
        first, slash, _ = token.partition("/")
        is_code = token.endswith((".py", ".j2", ".html.j2")) or token.endswith("/")
        if (slash and (first in TOP or (first in PACKAGES and is_code))) or (
            not slash and ROOT_FILES.match(token)
        ):
            yield token


def is_there(path: str) -> bool:
    roots = [REPOSITORY, REPOSITORY / "ray_pipeline"]
    return any(next(root.glob(path.rstrip("/")), None) is not None for root in roots)


def test_every_path_in_a_document_exists() -> None:
    missing = [
        f"{where}: {path}"
        for document in documents()
        for where, line in lines(document)
        for path in paths_in(re.sub(r"\]\([^)]*\)", "]", line))
        if not PLACEHOLDER.search(path) and not is_there(path)
    ]
    assert not missing, "\n".join(missing)


def test_a_path_that_does_not_exist_would_be_found() -> None:
    line = "See `engine/unit.py`, `ray_pipeline/gone.py`, `docs/README.md` and `engine/gone.py`."
    assert [path for path in paths_in(line) if not is_there(path)] == [
        "ray_pipeline/gone.py",
        "engine/gone.py",
    ]
    assert not PLACEHOLDER.search("docs/README.md")
    assert PLACEHOLDER.search("jobs/my_job.py") and PLACEHOLDER.search("configs/prompts/JOB/a.yaml")


def test_every_document_that_code_points_to_exists() -> None:
    missing = [
        f"{where}: {path}"
        for file in files_with(".py", ".j2", ".yaml")
        for where, line in lines(file)
        for path in re.findall(r"\b(?:docs|benchmarks)/[a-zA-Z_/-]+\.md", line)
        if not (REPOSITORY / path).exists() and not PLACEHOLDER.search(path)
    ]
    assert not missing, "\n".join(missing)


def test_every_relative_link_resolves() -> None:
    broken = [
        f"{where}: {target}"
        for document in documents()
        for where, line in lines(document)
        for target in re.findall(r"\]\(([^)\s]+)\)", line)
        if "://" not in target
        and not (document.parent / target.partition("#")[0]).exists()
        and not target.startswith("#")
    ]
    assert not broken, "\n".join(broken)


def test_every_link_to_a_heading_finds_it() -> None:
    def headings(document: Path) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}

    broken = [
        f"{where}: {target}"
        for document in documents()
        for where, line in lines(document)
        for target in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", line)
        if "://" not in target
        and target.partition("#")[2]
        not in headings(
            document.parent / target.partition("#")[0] if target[0] != "#" else document
        )
    ]
    assert not broken, "\n".join(broken)


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.is_file():
            continue
        seen.add(page)
        targets = re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / t).resolve() for t in targets if "://" not in t]
    unlinked = [page for page in documents() if page not in seen and page.is_relative_to(DOCS)]
    assert not unlinked


def test_the_layers_are_those_that_the_linter_checks() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    checked = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    block = page.partition("```text\n")[2].partition("```")[0]
    drawn = [re.split(r" {2,}", line)[0] for line in block.splitlines()]
    assert drawn == [layer.replace("ray_pipeline.", "") for layer in checked]


def test_every_target_of_make_and_every_command_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    groups = {name.split()[0] for name, _ in reference.commands()}
    wrong = [
        f"{where}: {said}"
        for document in documents()
        for where, line in lines(document)
        for said, target, command in re.findall(
            r"((?:^|`|\$ )(?:make ([a-z]+)|ray-pipeline +([a-z]+)))", line
        )
        if (target and target not in targets) or (command and command not in groups)
    ]
    assert not wrong, "\n".join(wrong)


def known_stages() -> dict[str, list[type[BaseModel]]]:
    found: dict[str, list[type[BaseModel]]] = {}
    for pipeline in reference.pipelines().values():
        section: Any = config_type(pipeline.stages).model_fields["stages"].annotation
        for name, info in section.model_fields.items():
            found.setdefault(info.alias or name, []).append(info.annotation)
    return found


def unknown_keys(raw: Any, model: type[BaseModel]) -> list[str]:
    try:
        model.model_validate(raw)
    except ValidationError as error:
        wrong = [e for e in error.errors() if e["type"] != "missing"]
        return [".".join(map(str, e["loc"])) + f": {e['msg']}" for e in wrong]
    return []


def wrong_in(example: dict[str, Any], stages: dict[str, list[type[BaseModel]]]) -> list[str]:
    """What is wrong with a part of a configuration: stages alone, or top-level keys."""
    top = RunConfig.model_fields
    if not set(example) & set(top):
        if not set(example) <= set(stages):
            return []  # something else than a configuration
        example = {"stages": example}
    common = {k: v for k, v in example.items() if k != "stages"}
    wrong = unknown_keys(common, RunConfig)
    for name, keys in (example.get("stages") or {}).items():
        of_jobs = [unknown_keys(keys, model) for model in stages.get(name, [])]
        if not of_jobs or min(map(len, of_jobs)):
            wrong.append(f"stages.{name}: {min(of_jobs, key=len) if of_jobs else 'unknown'}")
    return wrong


def test_the_keys_of_every_example_configuration_exist() -> None:
    stages = known_stages()
    wrong = []
    for document in documents():
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            example = yaml.safe_load(block)
            if isinstance(example, dict) and "my-stage" not in str(example):
                wrong += [f"{document.name}: {w}" for w in wrong_in(example, stages)]
    assert not wrong, "\n".join(wrong)


def known_keys() -> set[str]:
    found = {key.path for keys in reference.common_keys().values() for key in keys}
    for pipeline in reference.pipelines().values():
        for stage, keys in reference.stage_keys(pipeline).items():
            found |= {f"stages.{stage}", *(f"stages.{stage}.{key.path}" for key in keys)}
    return {key[:end] for key in found for end in (*_dots(key), len(key))}


def _dots(key: str) -> Iterator[int]:
    return (place for place, character in enumerate(key) if character == ".")


def test_every_key_that_is_written_with_its_path_exists() -> None:
    known = known_keys()
    unknown = [
        f"{where}: {key}"
        for document in documents()
        for where, line in lines(document)
        for key in re.findall(
            r"(?:`|--set )((?:budget|source|export|embedder|stages)\.[a-z][\w.-]*)", line
        )
        if key.rstrip(".") not in known and not key.startswith("source.columns.")
    ]
    assert not unknown, "\n".join(unknown)


def test_every_module_and_import_in_a_document_exists() -> None:
    wrong = []
    for document in documents():
        for where, line in lines(document):
            for name in re.findall(r"ray_pipeline(?:\.[a-z_]+)+", line):
                path = REPOSITORY / name.replace(".", "/")
                of_parent = path.parent.with_suffix(".py").exists() or path.parent.is_dir()
                if not (path.is_dir() or path.with_suffix(".py").exists() or of_parent):
                    wrong.append(f"{where}: {name}")
            for module, names in re.findall(r"^from (ray_pipeline[\w.]*) import ([\w, ]+)$", line):
                there = importlib.import_module(module)
                missing = [n for n in names.split(", ") if not hasattr(there, n)]
                wrong += [f"{where}: {module}.{name}" for name in missing]
    assert not wrong, "\n".join(wrong)


def test_an_example_with_an_unknown_key_would_be_found() -> None:
    stages = known_stages()
    assert wrong_in({"budget": {"max_cost": 1}}, stages)
    assert wrong_in({"stages": {"distil": {"alfa": 1}}}, stages)
    assert wrong_in({"distil": {"loop": {"epoch": 1}}}, stages)
    assert not wrong_in({"distil": {"loop": {"epochs": 1}}}, stages)


def test_every_key_has_a_description() -> None:
    sections = reference.common_keys()
    for script, pipeline in reference.pipelines().items():
        for stage, keys in reference.stage_keys(pipeline).items():
            sections[f"{script}: stages.{stage}"] = keys
    bare = [
        f"{section} {key.path}"
        for section, keys in sections.items()
        for key in keys
        if not key.description and key.type != "section"
    ]
    assert not bare, "\n".join(bare)


@pytest.mark.parametrize("page", reference.pages(), ids=lambda page: page.name)
def test_the_reference_is_what_the_code_says(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == reference.pages()[page], "run `make docs`"
