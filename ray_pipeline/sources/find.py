"""Resolves the configured path (a file, a folder, a glob or a list of these) to source files."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import json
import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

import pyarrow.fs as pafs

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources import hub
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.csv import Csv
from ray_pipeline.sources.files import locate, readable
from ray_pipeline.sources.format import Format, SourceFile
from ray_pipeline.sources.json import Json, JsonLines
from ray_pipeline.sources.parquet import ArrowStream, Parquet

#: The formats by extension: the one place where a format is registered.
FORMATS: dict[str, Format] = {
    ".csv": Csv(),
    ".tsv": Csv(delimiter="\t"),
    ".jsonl": JsonLines(),
    ".ndjson": JsonLines(),
    ".json": Json(),
    ".parquet": Parquet(),
}
#: Wildcard characters, and how `glob.escape` writes one that is meant by itself.
_MAGIC = re.compile(r"[*?[]")
_ESCAPED = re.compile(r"\[([*?[])\]")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


class Found(NamedTuple):
    """The files of a source, each once, sorted by URI."""

    files: list[SourceFile]
    #: How paths with wildcard characters were read, a sentence each.
    notes: list[str]


def find_files(config: SourceConfig, scratch: str) -> Found:
    """Every file that ``config.path`` names.

    Args:
        config: the source.
        scratch: folder URI where a data set of the hub is put.

    Raises:
        UserError: nothing exists at the path, no file can be read, an extension is unknown, the
            hub does not have the data set, or a split is missing or superfluous.
    """
    paths = [config.path] if isinstance(config.path, str) else config.path
    if not paths:
        raise UserError("source.path: an empty list: name at least one file")
    notes: list[str] = []
    files = {
        file.uri: file for path in paths for file in _expand(path, config.split, scratch, notes)
    }
    return Found([files[uri] for uri in sorted(files)], notes)


def recognise(uri: str) -> SourceFile | None:
    """A file's format by its extensions; None where they are unknown."""
    stem, extension = os.path.splitext(uri)
    compression = COMPRESSIONS.get(extension.lower())
    if compression:
        extension = os.path.splitext(stem)[1]
    format = FORMATS.get(extension.lower())
    if format is None or (compression and not format.compressible):
        return None
    return SourceFile(uri, format, compression)


def known_extensions() -> str:
    """The known file extensions, for messages."""
    return f"{' '.join(FORMATS)}, and the text formats with {' '.join(COMPRESSIONS)} after it"


def _expand(path: str, split: str | None, scratch: str, notes: list[str]) -> list[SourceFile]:
    if path.startswith("hf://"):
        return [hub.fetch(path, split, scratch)]
    with readable(path):
        fs, root = locate(path)
        kind = fs.get_file_info(root).type
        if kind != pafs.FileType.NotFound and _MAGIC.search(root):
            notes.append(f"{path}: taken by its name, not as a pattern, because it exists")
        if kind == pafs.FileType.Directory:
            return _in_folder(path, split, fs, root)
        if split:
            raise UserError(
                f"source {path}: 'split' is for Hugging Face data sets and this is not one: "
                "remove source.split"
            )
        if kind == pafs.FileType.File:
            return [_recognised(_uri(path, root))]
        if _MAGIC.search(root):
            return _matching(path, fs, root, notes)
    raise UserError(f"source {path}: there is no such file or directory{_nearby(fs, root)}")


def _recognised(uri: str) -> SourceFile:
    file = recognise(uri)
    if file is None:
        extension = PurePosixPath(uri).suffix
        found = f"unknown extension {extension!r}" if extension else "no extension"
        raise UserError(
            f"source {uri}: {found}; known: {known_extensions()}. Rename or convert the file"
        )
    return file


def _uri(path: str, location: str) -> str:
    """The URI of a location on the file system of ``path``: local ones are absolute paths."""
    scheme, separator, _ = path.partition("://")
    return f"{scheme}://{location}" if separator and scheme != "file" else location


def _in_folder(path: str, split: str | None, fs: pafs.FileSystem, root: str) -> list[SourceFile]:
    names = {info.base_name: info for info in fs.get_file_info(pafs.FileSelector(root))}
    if {"dataset_dict.json", "dataset_info.json", "state.json"} & names.keys():
        return _saved_data_set(path, split, fs, root, set(names))
    if split:
        raise UserError(
            f"source {path}: 'split' is for Hugging Face data sets and this folder has no "
            "dataset_info.json: remove source.split"
        )
    files = [
        file
        for name, info in names.items()
        if info.is_file and not _is_hidden(name)
        if (file := recognise(_uri(path, info.path)))
    ]
    if not files:
        there = ", ".join(sorted(names)[:10]) or "nothing"
        raise UserError(
            f"source {path}: a directory without a file that can be read; found: {there}; "
            f"known extensions: {known_extensions()}. Name the files directly in it, or use a glob"
        )
    return files


def _saved_data_set(
    path: str, split: str | None, fs: pafs.FileSystem, root: str, names: set[str]
) -> list[SourceFile]:
    """The Arrow files of a folder written by ``Dataset`` or ``DatasetDict.save_to_disk``."""
    if "dataset_dict.json" in names:
        splits = _read_json(path, fs, f"{root}/dataset_dict.json").get("splits", [])
        chosen = splits[0] if split is None and len(splits) == 1 else split
        if chosen not in splits:
            wrong = f"no split {split!r}" if split else "several splits and none chosen"
            raise UserError(
                f"source {path}: {wrong}; it has {', '.join(splits)}: set source.split to one"
            )
        root = f"{root}/{chosen}"
        names = {info.base_name for info in fs.get_file_info(pafs.FileSelector(root))}
    elif split:
        raise UserError(f"source {path}: a data set without splits: remove source.split")
    if "state.json" in names:
        state = _read_json(path, fs, f"{root}/state.json")
        arrow = [entry["filename"] for entry in state.get("_data_files", [])]
    else:
        arrow = sorted(name for name in names if name.endswith(".arrow"))
    missing = [name for name in arrow if name not in names]
    if missing or not arrow:
        raise UserError(
            f"source {path}: expected the Arrow files of a saved Hugging Face data set, "
            f"missing: {', '.join(missing) or 'all'}: save it again with save_to_disk"
        )
    return [SourceFile(_uri(path, f"{root}/{name}"), ArrowStream()) for name in arrow]


def _read_json(path: str, fs: pafs.FileSystem, location: str) -> dict[str, Any]:
    with fs.open_input_file(location) as file:
        try:
            loaded = json.loads(file.read())
        except ValueError as error:
            name = PurePosixPath(location).name
            raise UserError(f"source {path}: its {name} is not JSON: {error}") from None
    return loaded if isinstance(loaded, dict) else {}


def _matching(path: str, fs: pafs.FileSystem, root: str, notes: list[str]) -> list[SourceFile]:
    pattern = _with_names_escaped(fs, root)
    by_name = pattern != root
    if by_name and not _MAGIC.search(_ESCAPED.sub("", pattern)):
        folder = root.rpartition("/")[0]
        raise UserError(f"source {path}: there is no such file in the folder {folder}")
    if isinstance(fs, pafs.LocalFileSystem):
        matches = [name for name in glob.iglob(pattern, recursive=True) if os.path.isfile(name)]
    else:
        matches = list(_listed(fs, pattern))
    # As in a folder: Spark's _SUCCESS, and checksums that begin with a dot.
    hidden = root.rpartition("/")[2].startswith((".", "_"))
    matches = [name for name in matches if hidden or not _is_hidden(name)]
    if not matches:
        raise UserError(
            f"source {path}: no file matches this pattern (* ? and [ ] are wildcards; [[] is a "
            "bracket itself)"
        )
    if by_name or "[" in root:
        how = ", its folders that exist taken by their names" if by_name else ""
        files = "1 file matches" if len(matches) == 1 else f"{len(matches):,} files match"
        notes.append(f"{path}: read as a pattern{how}: {files}")
    return [_recognised(_uri(path, match)) for match in matches]


def _with_names_escaped(fs: pafs.FileSystem, root: str) -> str:
    """The pattern with its leading folders escaped where they exist by that name: ``run [1]/*``."""
    *folders, name = root.split("/")
    for count in range(len(folders), 0, -1):
        folder = "/".join(folders[:count])
        if not folder or not _MAGIC.search(folder):
            break
        if fs.get_file_info(folder).type == pafs.FileType.Directory:
            return "/".join([glob.escape(folder), *folders[count:], name])
    return root


def _is_hidden(location: str) -> bool:
    return location.rpartition("/")[2].startswith((".", "_"))


def _listed(fs: pafs.FileSystem, pattern: str) -> Iterator[str]:
    """Objects that match a pattern. ``*`` matches within a folder, ``**`` across folders."""
    plain = _ESCAPED.sub(lambda mark: "\0" * len(mark[0]), pattern)
    magic = cast(re.Match[str], _MAGIC.search(plain)).start()
    folder = _ESCAPED.sub(lambda mark: mark[0][1], pattern[:magic]).rpartition("/")[0]
    deep = "**" in pattern
    recursive = deep or "/" in pattern[magic:]
    selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
    # `a/**/b.csv` also matches `a/b.csv`, as it does for local files.
    patterns = {pattern, pattern.replace("**/", "")}
    for info in fs.get_file_info(selector):
        same_depth = info.path.count("/") == pattern.count("/")
        matches = any(fnmatch.fnmatchcase(info.path, variant) for variant in patterns)
        if info.is_file and matches and (deep or same_depth):
            yield info.path


def _nearby(fs: pafs.FileSystem, root: str) -> str:
    """The end of a message about a missing file: a file beside it with a similar name."""
    folder, _, name = root.rpartition("/")
    try:
        infos = fs.get_file_info(pafs.FileSelector(folder)) if folder else []
    except OSError:
        return "; its folder is not there either"
    close = difflib.get_close_matches(name, [info.base_name for info in infos], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
