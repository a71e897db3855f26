"""Names the run directories near a path that is none: the end of an error message."""

from __future__ import annotations

import difflib

import pyarrow.fs as pafs

from ray_pipeline.core.storage import filesystem


def runs_nearby(uri: str) -> str:
    """The end of an error message: the run directories inside `uri`, or beside it."""
    fs, path = filesystem(uri)
    name = path.rstrip("/").rpartition("/")[2]
    inside = [f"{name}/{run}" for run in _runs_in(fs, path)]
    if inside:
        return f"; it holds the runs {', '.join(inside[:5])}"
    beside = _runs_in(fs, path.rstrip("/").rpartition("/")[0])
    close = difflib.get_close_matches(name, beside, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return hint + (f"; the runs beside it: {', '.join(beside[:10])}" if beside else "")


def _runs_in(fs: pafs.FileSystem, folder: str) -> list[str]:
    if not folder:
        return []
    try:
        infos = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        folders = [info for info in infos if info.type == pafs.FileType.Directory][:200]
        ledgers = fs.get_file_info([f"{info.path}/ledger.json" for info in folders])
    except OSError:
        # This is only a hint: the user may have no permission to read the parent folder.
        return []
    pairs = zip(folders, ledgers, strict=True)
    return sorted(folder.base_name for folder, ledger in pairs if ledger.is_file)
