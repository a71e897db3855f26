"""Looks whether the parts of a finished segment are what was written, before they are believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ray_pipeline.core.hashing import set_digest
from ray_pipeline.core.storage import Storage, StoredFile
from ray_pipeline.rundir.account import StageAccount, total
from ray_pipeline.rundir.layout import DONE, part_of, part_path, rows_folder
from ray_pipeline.rundir.ledger import Done
from ray_pipeline.rundir.parts import OTHER_STAGES, DamagedPart, PartInfo, open_part

_THREADS = 16
#: Damages that are named one by one; of more, the number is told.
_MOST_NAMED = 20


@dataclass(frozen=True)
class FileDamage:
    """A file of a run that is not what was written, or is not there."""

    #: Relative to the run directory.
    path: str
    #: What is wrong with it, as the end of a sentence that begins with its path.
    what: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass
class InspectedParts:
    """What was found in the folder of a segment's parts."""

    #: Footers of the parts that were read and are whole, by unit id.
    infos: dict[str, PartInfo] = field(default_factory=dict)
    #: Damaged and missing parts, by unit id.
    damages: dict[str, FileDamage] = field(default_factory=dict)
    #: Files that are no part of the run's units. Nothing reads them.
    strangers: list[str] = field(default_factory=list)


def inspect_parts(
    storage: Storage,
    folder: str,
    fingerprint: str,
    unit_ids: Sequence[str],
    input_of: Callable[[str], str | None] = lambda unit_id: None,
    everything: bool = False,
) -> InspectedParts:
    """Compare the parts of a finished segment with what they should be.

    On a local disk every part is read whole: bits flip there, and files are copied by hand. Object
    storage guards its objects' bytes, and says when each was written: parts that are older than
    the segment's ``done.json`` are believed by the listing.

    Args:
        storage: the run directory.
        folder: of the segment.
        fingerprint: of the segment.
        unit_ids: the units of the run.
        input_of: the digest of a unit's input; None: it is not known.
        everything: read every part on object storage, too.

    Raises:
        RunError: storage cannot be read.
    """
    files = {file.path: file for file in storage.files(folder, recursive=True)}
    found = InspectedParts()
    paths = {part_path(folder, unit_id): unit_id for unit_id in unit_ids}
    in_rows = f"{rows_folder(folder)}/"
    found.strangers = sorted(p for p in files if p.startswith(in_rows) and p not in paths)
    marker = files.get(f"{folder}/{DONE}")
    to_read = []
    for path, unit_id in paths.items():
        if path not in files:
            found.damages[unit_id] = FileDamage(path, "is missing")
        elif everything or storage.is_local or not _is_older(files[path], marker):
            to_read.append(path)

    def look(path: str) -> PartInfo | FileDamage:
        return _inspect(storage, path, fingerprint, input_of)

    with ThreadPoolExecutor(_THREADS) as threads:
        for path, result in zip(to_read, threads.map(look, to_read), strict=True):
            if isinstance(result, FileDamage):
                found.damages[paths[path]] = result
            else:
                found.infos[paths[path]] = result
    return found


def _is_older(file: StoredFile, marker: StoredFile | None) -> bool:
    return marker is not None and file.modified_ns <= marker.modified_ns


def _inspect(
    storage: Storage, path: str, fingerprint: str, input_of: Callable[[str], str | None]
) -> PartInfo | FileDamage:
    try:
        part = open_part(storage, path)
        if part is None:
            return FileDamage(path, "is missing")
        part.verify()
    except DamagedPart as error:
        return FileDamage(path, f"is damaged: {error.how}")
    info = part.info
    if info.fingerprint != fingerprint:
        return FileDamage(path, f"is damaged: {OTHER_STAGES}")
    _, unit_id = part_of(path)
    if info.input_digest != (input_of(unit_id) or info.input_digest):
        return FileDamage(path, "is damaged: it was made from other rows than those of its unit")
    return info


def unlike(done: Done, found: InspectedParts, unit_ids: Sequence[str]) -> str | None:
    """How the parts differ from what ``done.json`` says of them together; None: they do not.

    Parts can be whole one by one and still be of two attempts, as after a copy from a backup.

    Args:
        done: what the segment's ``done.json`` says.
        found: its parts; nothing can be said unless each was read and is whole.
        unit_ids: the units of the run, in order.
    """
    if len(found.infos) != len(unit_ids):
        return None
    infos = [found.infos[unit_id] for unit_id in unit_ids]
    digest = set_digest(f"{u}:{i.digest}" for u, i in zip(unit_ids, infos, strict=True))
    if digest != done.digest or len(infos) != done.units:
        return "lists other rows than its parts hold"
    try:
        accounts = total([account.name for account in done.accounts], [i.accounts for i in infos])
    except KeyError:
        return "counts other stages than its parts do"
    if [_counts(a) for a in accounts] != [_counts(a) for a in done.accounts]:
        return "counts other rows than its parts do"
    return None


def _counts(account: StageAccount) -> tuple[dict[str, int], dict[str, int]]:
    return account.rows, account.reasons


def lines(damages: Iterable[FileDamage]) -> list[str]:
    """A line for each damage; of a large number, the first ones and the number of the others."""
    named = [str(damage) for damage in damages]
    more = len(named) - _MOST_NAMED
    return named if more <= 0 else [*named[:_MOST_NAMED], f"and {more} more files"]
