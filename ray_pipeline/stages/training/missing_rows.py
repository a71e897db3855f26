"""Why a training or an evaluation has no rows: looked up in the run, with how to fix it."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence

import pyarrow.compute as pc

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.rows import DROPPED
from ray_pipeline.core.storage import Storage
from ray_pipeline.models import text as tokens
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.rows import Rows
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Stage
from ray_pipeline.stages.training.split import SplitStage
from ray_pipeline.stages.training.split_groups import SplitGroups
from ray_pipeline.stages.training.tokenise import Tokenise

_SIDES = ("train", "validation", "test")
#: Stages, and reasons of one stage, that a message names at most.
_NAMED = 3


def require_rows(stage: Stage, rows: StoredRows, **purposes: str) -> None:
    """Check that sides of the split have rows.

    Args:
        stage: what needs them.
        rows: the rows that reached it.
        purposes: what each side is for, such as ``train="to train on"``.

    Raises:
        UserError: a side has none. The message says what became of the rows.
    """
    sides: Counter[str] = Counter()
    for table in rows.tables([SPLIT]):
        sides.update(table[SPLIT].to_pylist())
    for side, purpose in purposes.items():
        if not sides[side]:
            why = why_missing(stage, rows, side)
            raise UserError(f"stages.{stage.name}: there are no {side} rows {purpose}. {why}")


def why_missing(stage: Stage, rows: StoredRows, side: str) -> str:
    """Sentences on why a side of the split has no rows, and what to do."""
    accounts = _accounts(rows.storage)
    split = stage.find_stage(SplitStage)
    at = next((n for n, a in enumerate(accounts) if split and a.name == split.name), None)
    given = 0 if at is None else accounts[at].counts.get(side, 0)
    if at is not None and given:
        losses = _losses(accounts[at + 1 :])
        return (
            f"The split gave this side {given} rows, and none is left: {losses}. "
            f"{_fix(stage, rows.storage, accounts[at + 1 :])}"
        )
    before = accounts[:at]
    reached = sum(table.num_rows for table in rows.tables([SPLIT]))
    reached = reached if at is None else accounts[at].rows_in
    if not reached:
        read = f"Of {accounts[0].rows_in} rows read, none is left" if accounts else "No row is left"
        losses = f": {found}" if (found := _losses(before)) else ""
        return f"{read}{losses}. {_fix(stage, rows.storage, before)}"
    if split is None:
        return (
            f"{_reached(reached)} it, on these sides: {_on_sides(rows)}. Raise "
            f"stages.split.{side}, or, in a job without that stage, fill the column {SPLIT!r} of "
            "the source"
        )
    why = _of_split(split, rows, side, reached)
    if losses := _losses(before):
        why = f"Of {accounts[0].rows_in} rows read, {reached} reached the split: {losses}. {why}"
    return why


def _accounts(storage: Storage) -> list[StageAccount]:
    try:
        return [entry.account for entry in RunReader(storage.root).ledger.entries]
    except UserError:  # rows without a ledger: not of a run
        return []


def _losses(accounts: Sequence[StageAccount]) -> str:
    """Which stages dropped or failed rows: those with the most first."""
    lost = sorted(accounts, key=lambda account: -account.dropped - account.failed)
    named = [account for account in lost[:_NAMED] if account.dropped or account.failed]
    return "; ".join(map(_loss, named))


def _loss(account: StageAccount) -> str:
    verbs = (("dropped", account.dropped), ("failed", account.failed))
    lost = " and ".join(f"{verb} {number}" for verb, number in verbs if number)
    reasons = Counter(account.reasons).most_common(_NAMED)
    return f"{account.name} {lost} ({', '.join(f'{code} {n}' for code, n in reasons)})"


def _fix(stage: Stage, storage: Storage, accounts: Sequence[StageAccount]) -> str:
    """What to do about the stage that lost the most rows, by its commonest reason."""
    worst = max(accounts, key=lambda account: account.dropped + account.failed, default=None)
    if worst is None or not worst.reasons:
        return "Bring rows"
    code = Counter(worst.reasons).most_common(1)[0][0]
    tokenise = stage.find_stage(Tokenise)
    if tokenise is not None and worst.name == tokenise.name:
        return _fix_of_tokens(tokenise, storage, code)
    if code.startswith("duplicate:"):
        return "They are alike: each was dropped as a duplicate of another. Bring rows that differ"
    status = "failed" if worst.failed > worst.dropped else "dropped"
    return f"`ray-pipeline rows {storage.uri()} {worst.name} --status {status}` shows them"


def _fix_of_tokens(tokenise: Tokenise, storage: Storage, code: str) -> str:
    text, where = tokenise.config.text, f"stages.{tokenise.name}.text"
    if code in (tokens.TOO_LONG, tokens.PROMPT_TOO_LONG):
        number = len(lengths := _lengths(tokenise, storage, code))
        sizes = f"; the shortest of {number} has {min(lengths)}" if lengths else ""
        what = "question with its prompt" if code == tokens.PROMPT_TOO_LONG else "text"
        other = f", or set {where}.overlong: cut_answer" if code == tokens.TOO_LONG else ""
        return (
            f"Their {what} has more tokens than {where}.max_tokens, {text.max_tokens}, has room "
            f"for{sizes}: raise it{other}"
        )
    if code == tokens.TEMPLATE:
        return f"The chat template does not fit questions and answers: set {where}.style: plain"
    column = text.question_column if code == tokens.NO_QUESTION else text.answer_column
    return (
        f"Their column {column!r} is empty: `ray-pipeline rows {storage.uri()} {tokenise.name} "
        f"--status dropped` shows them. Another column can be named in source.columns"
    )


def _lengths(tokenise: Tokenise, storage: Storage, code: str) -> list[int]:
    """Tokens of the texts that were dropped for their length."""
    try:
        dropped = Rows(RunReader(storage.root), tokenise.name, DROPPED, code, ["reason"])
        reasons = [reason for batch in dropped for reason in batch["reason"].to_pylist()]
    except (UserError, RunError):
        return []
    return [int(match[1]) for reason in reasons if (match := re.search(r": (\d+) tokens", reason))]


def _reached(rows: int) -> str:
    return "1 row reached" if rows == 1 else f"{rows} rows reached"


def _on_sides(rows: StoredRows) -> str:
    """How many rows are on each side: ``train 0, validation 0, test 1``."""
    sides: Counter[str] = Counter()
    for table in rows.tables([SPLIT]):
        sides.update(table[SPLIT].to_pylist())
    return ", ".join(f"{name} {sides[name]}" for name in _SIDES)


def _of_split(split: SplitStage, rows: StoredRows, side: str, reached: int) -> str:
    """What the split did with the rows that reached it."""
    config = split.config
    shares = {"validation": config.validation, "test": config.test}
    shares["train"] = 1 - sum(shares.values())
    where = f"stages.{split.name}"
    if not shares[side]:
        return f"{where}.{side} is 0: set it, as to 0.05"
    roots, alike = _roots(split, rows)
    got = _on_sides(rows)
    if len(roots) == 1 and reached > 1:
        return (
            f"All {reached} rows {alike}, and such rows are on one side of the split ({got}): "
            "bring rows that differ"
        )
    more = (
        f"lower {where}.validation and {where}.test"
        if side == "train"
        else f"raise {where}.{side}, which is {shares[side]:g}"
    )
    return (
        f"{_reached(reached)} the split, and by chance its sides have: {got}. "
        f"Bring more rows, or {more}"
    )


def _roots(split: SplitStage, rows: StoredRows) -> tuple[set[str], str]:
    """What the rows were drawn by, and what rows with one root have in common."""
    if isinstance(split, SplitGroups):
        columns, alike = ["split_group", "row_id"], "are twins: they say nearly the same"
    elif split.reads:
        columns, alike = list(split.reads), f"have the same {' and '.join(split.reads)}"
    else:
        columns, alike = ["parent_id", "row_id"], "come from one row"
    roots: set[str] = set()
    with contextlib.suppress(RunError):  # a later stage may have removed the columns
        for table in rows.tables(columns):
            if isinstance(split, SplitGroups):
                roots.update(pc.coalesce(table["split_group"], table["row_id"]).to_pylist())
            else:
                roots.update(split.roots(table))
    return roots, alike
