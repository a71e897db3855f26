"""The base classes of stages: plain Python on Arrow tables. The engine decides how they run.

Five kinds cover everything:

- `MapStage`     rows in, the same rows out; may drop rows and create rows;
- `AskStage`     one row, questions to a language model, the row's next state;
- `ModelStage`   a `MapStage` with a local model, loaded once per worker;
- `DecideStage`  needs to see many rows at once: keys out, decisions back;
- `ArtifactStage`  makes files from all rows (a trained model, an evaluation); rows pass unchanged.

A stage declares its name (as in the ledger), its configuration, and the columns it reads and
writes. Its configuration is a typed object; a field marked `Execution` changes only the speed,
every other one is part of the stage's identity: changing it re-runs the stage.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import Execution, Section, varied
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.resources import Resources

if TYPE_CHECKING:
    from ray_pipeline.core.storage import Storage
    from ray_pipeline.core.tables import Tables
    from ray_pipeline.llm.asking import AnswerError, Llm
    from ray_pipeline.llm.prompt import Prompt
    from ray_pipeline.rundir.stored_rows import StoredRows

_Kind = TypeVar("_Kind")  # a stage class, or a base class of stages

#: A row as an `AskStage` sees it: its data columns by name.
Row = dict[str, Any]


class StageConfig(Section):
    """Base of the configurations of all stages."""


@dataclass(frozen=True)
class Settings:
    """The parts of the run's configuration, other than its own, that a stage may use."""

    seed: int = 0
    #: Local folder or hub id of the sentence-embedding model, and the identity of its weights.
    embedder: str | None = None
    embedder_revision: str | None = None
    #: Prompts, by the name that a stage's configuration uses for them.
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    #: Identity of each language model (its configuration and weights) by its name under ``llms``.
    llms: Mapping[str, Any] = field(default_factory=dict)
    #: What the models that `Stage.models` names resolve to, and the identity of their weights.
    models: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    #: The job's stages in order, each with its configuration; see `Stage.find_stage`.
    stages: Sequence[Stage] = ()
    #: The run directory, where `ArtifactStage`s leave what later stages load.
    run_dir: str = ""
    #: Whether formulas in CSV files are written as text.
    for_spreadsheets: bool = False


class Stage(ABC):
    """Base of the five kinds. Subclass one of those, not this.

    A stage that a job lists is a description: its class, its name, and defaults of its
    configuration. `bound` gives it the configuration and the settings of a run.

    Args:
        name: in the ledger, the configuration and the run directory, where it is not the class's:
            two stages of one class in a job need two names.
        sources: named sources whose rows it works on, where it is not all of them.
        defaults: of the configuration, where they are not the class's, by the names of its fields.

    Raises:
        TypeError: the configuration has no such field.
    """

    #: Name in the ledger, the configuration and the run directory.
    name: str
    #: Raised when the code changes what the stage makes, so that old results are not reused.
    version: int = 1
    #: Named sources of a run whose rows the stage works on; None: those of all. Rows of the others
    #: go through as if the stage were off: unchanged, its columns null where they are new.
    sources: tuple[str, ...] | None = None
    #: Name of the stage's file under ``exports/``; None: it has none. See `exported`.
    export: str | None = None
    #: Whether it writes all columns of its rows as a Hugging Face data set: a source with a column
    #: that such a data set has no place for is then refused.
    writes_datasets: bool = False
    #: Whether the stage uses the run's sentence-embedding model.
    uses_embedder: bool = False
    #: Whether the run's seed changes what the stage makes.
    uses_seed: bool = False

    #: The type of the configuration. Stages define it inside, and annotate `config` with it.
    Config: ClassVar[type[StageConfig]] = StageConfig
    config: Any
    settings: Settings

    _defaults: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, *, name: str | None = None, sources: Sequence[str] | None = None, **defaults: Any
    ) -> None:
        if name is not None:
            self.name = name
        if sources is not None:
            if isinstance(sources, str) or not sources:
                raise TypeError(f"sources: expected a list of names, found {sources!r}")
            self.sources = tuple(sources)
        if defaults:
            self._defaults = defaults
            varied(self.Config, defaults)  # an unknown field is an error here

    @property
    def config_type(self) -> type[StageConfig]:
        """`Config` with this stage's own defaults: the type of its section in the YAML file."""
        return varied(self.Config, self._defaults)

    def bound(
        self,
        config: StageConfig | Mapping[str, Any] | None = None,
        settings: Settings | None = None,
    ) -> Self:
        """A copy with a configuration and with settings, which can work.

        Args:
            config: the configuration, or the fields of it that are not the defaults.
            settings: the other parts of the run's configuration that it may use.
        """
        stage = copy.copy(self)
        if not isinstance(config, StageConfig):
            config = self.config_type.model_validate(config or {})
        stage.config, stage.settings = config, settings or Settings()
        return stage

    def for_workers(self) -> Self:
        """A copy for the workers: of the job's other stages it has those that it needs.

        A worker imports the modules of all stages that it is sent. Those of training import torch,
        which takes longer than a small unit's work.
        """
        own = (type(self), *self.needs_stages)
        stages = tuple(stage for stage in self.settings.stages if isinstance(stage, own))
        return self.bound(self.config, replace(self.settings, stages=stages))

    # What columns a stage has may depend on its configuration: these are attributes of the class
    # in most stages, and properties in the others.

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """Data columns that the stage requires, with their Arrow types."""
        return {}

    def reads_of(self, source: str) -> Mapping[str, pa.DataType]:
        """Those of `reads` that the rows of a named source must have: all of them.

        A stage that puts rows of several sources together, as queries and a corpus, says here
        which column it takes from which.
        """
        return self.reads

    @property
    def needs(self) -> Collection[str]:
        """Columns of `reads` that must have values; the stage that writes them may not be off."""
        return ()

    @property
    def writes(self) -> Mapping[str, pa.DataType]:
        """Data columns that the stage adds or overwrites, with their Arrow types."""
        return {}

    @property
    def removes(self) -> Collection[str]:
        """Data columns that are removed after this stage."""
        return ()

    @property
    def internal(self) -> Collection[str]:
        """Data columns of `writes` that only later stages use; they are not exported."""
        return ()

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """Stages that must run before this one: it uses their configuration or files."""
        return ()

    @property
    def is_off(self) -> bool:
        """Whether the configuration turns it off; `engine.off.Off` then replaces it."""
        return False

    @property
    def models(self) -> Mapping[str, str]:
        """Models that the configuration names, to be looked up: key in the configuration → name."""
        return {}

    def model(self, key: str) -> str:
        """Folder or hub id of a model of `models`, by its key in the configuration."""
        return self.settings.models[self.models[key]]

    def revision(self, key: str) -> str:
        """Identity of the weights of a model of `models`, by its key in the configuration."""
        return self.settings.revisions[self.models[key]]

    def find_stage(self, kind: type[_Kind]) -> _Kind | None:
        """The job's stage of a class, with this one's settings; None if the job has none.

        Of several the last one before this one, else the first one after it. What a stage uses of
        a later one belongs into its identity; on those before it its fingerprint depends anyway.
        """
        names = [stage.name for stage in self.settings.stages]
        own = names.index(self.name) if self.name in names else len(names)
        stages = [*self.settings.stages[:own][::-1], *self.settings.stages[own:]]
        stage = next((stage for stage in stages if isinstance(stage, kind)), None)
        bound: Any = None if stage is None else stage.bound(stage.config, self.settings)
        found: _Kind | None = bound
        return found

    def stage_of(self, kind: type[_Kind]) -> _Kind:
        """The job's stage of a class, as `find_stage`; raises an error if there is none.

        Raises:
            UserError: the job has no stage of this class.
        """
        stage = self.find_stage(kind)
        if stage is None:
            raise UserError(f"stages.{self.name} needs a stage {kind.__name__}, the job has none")
        return stage

    def check(self) -> None:  # noqa: B027 most stages have nothing to look at
        """Check what the configuration refers to, before anything is run or paid for.

        Raises:
            UserError: the stage could not work.
        """

    def resources(self) -> Resources | None:
        """Worker processes that the stage needs at the same time; None if it needs none."""
        return None

    def identity(self) -> dict[str, Any]:
        """Everything besides name and version that changes what the stage makes."""
        identity: dict[str, Any] = {"config": self.config.identity()}
        if names := sorted(self.models.values()):
            identity["models"] = [self.settings.revisions[name] for name in names]
        if self.uses_embedder:
            identity["embedder"] = self.settings.embedder_revision
        if self.uses_seed:
            identity["seed"] = self.settings.seed
        return identity

    def exported(self, rows: pa.Table) -> pa.Table:
        """The rows of one unit for the stage's exported file; by default those it dropped."""
        return rows.filter(pc.equal(rows["stage"], self.name))

    def exports(self) -> Mapping[str, Callable[[pa.Table], pa.Table]]:
        """The stage's files under ``exports/``: name → function that selects a unit's rows."""
        return {} if self.export is None else {self.export: self.exported}


class MapStage(Stage):
    """Row-local work on a batch of rows."""

    def resources(self) -> Resources:
        """Resources of one task; a stage whose `apply` computes with several threads has more."""
        return Resources()

    @abstractmethod
    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Return ``rows`` with changed columns and marks; created rows come after all of them.

        Args:
            rows: rows with their envelope, every one ``kept``.
            counts: counters that are shown in the report (``counts["mojibake"] += 1``).

        Every ``row_id`` that came in must go out once (drop with `core.rows.drop`, never
        filter). A created row has a new id (`rows.created_row_id`) and a ``parent_id``. An
        exception makes the engine run the batch row by row: only the rows that raise fail.
        """


class ModelStageConfig(StageConfig):
    """Configuration of a stage with a local model in an actor pool."""

    actors: Annotated[int, Execution] = Field(
        1, ge=1, description="number of workers; each loads its own copy of the model"
    )
    num_cpus: Annotated[float | None, Execution] = Field(
        None, ge=0, description="CPUs reserved per worker; null: none"
    )
    num_gpus: Annotated[float, Execution] = Field(
        0, ge=0, description="GPUs reserved per worker; fractions are allowed"
    )

    def resources(self) -> Resources:
        """Number of workers of the pool, and the CPUs and GPUs of each."""
        return Resources(self.actors, self.num_cpus or 0, self.num_gpus)


class ModelStage(MapStage):
    """A map with a local model: `load` runs once in each worker, before the first `apply`."""

    Config = ModelStageConfig

    #: Whether `plan` runs it on its sample of rows. Not where that takes minutes and drops nothing:
    #: its columns are then empty there.
    in_plan: bool = True
    #: Whether it takes thousands of rows a second. Then its tasks are as large as those of a map;
    #: those of other models are small, so that all workers end at about the same time.
    is_quick: bool = False

    def resources(self) -> Resources:
        """Number of workers of the pool, and the CPUs and GPUs of each, as configured."""
        resources: Resources = self.config.resources()
        return resources

    @abstractmethod
    def load(self) -> None:
        """Load the model into ``self``."""


@dataclass(frozen=True)
class Drop:
    """Result of `AskStage.ask`: the row is dropped. ``row`` may hold evidence for the reason."""

    reason: str
    row: Row | None = None


@dataclass(frozen=True)
class Expand:
    """Result of `AskStage.ask`: the row is kept, together with new rows made from it."""

    row: Row
    created: list[Row]


class AskStageConfig(StageConfig):
    """Configuration of a stage that asks a language model."""

    llm: str = Field(description="language model that is asked: a name under `llms`")
    prompt: str = Field(description="prompt file: its name without the suffix, or a path")


class AskStage(Stage):
    """Asks a language model about each row; its code handles one row and one answer at a time."""

    Config = AskStageConfig

    #: Names that `ask` passes to its prompt. A prompt that uses another one is refused before a
    #: run; None: it shows when a row fails.
    variables: Sequence[str] | None = None

    @property
    def prompt(self) -> Prompt:
        """The prompt that the configuration names."""
        return self.settings.prompts[self.config.prompt]

    def identity(self) -> dict[str, Any]:
        """The prompt's text and the model's identity, instead of the names they go by."""
        config = self.config.identity()
        prompt, llm = config.pop("prompt"), config.pop("llm")
        return {
            "config": config,
            "prompt": self.settings.prompts[prompt].identity(),
            "llm": self.settings.llms[llm],
            "seed": self.settings.seed,
        }

    def keep(self, row: Row, what: str, error: AnswerError) -> Row:
        """The row that is kept without a usable answer, if ``if_unusable`` is ``keep``.

        Args:
            row: the row to keep; its `note` is set here and says what happened.
            what: what the stage did instead, such as "kept the old question".
            error: why there is no usable answer.

        Raises:
            AnswerError: the row fails. It always fails if no answer came at all, because a
                retry may bring one.
        """
        if getattr(self.config, "if_unusable", "keep") == "fail" or error.answer is None:
            raise error
        notes = filter(None, (row.get("note"), f"{self.name}: {what}: {error}"))
        return {**row, "note": "; ".join(notes)}

    @abstractmethod
    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Return the row's next state.

        Args:
            row: the data columns of one row.
            llm: ``await llm(prompt, question=...)`` renders the prompt, asks the stage's model
                and returns a usable answer. It raises when there is none; let it: the engine
                then fails this row with the reason and keeps its neighbours.

        The coroutine must depend on nothing but the row, the configuration and the answers: it
        runs again after a crash, on the answers already paid for.
        """


class DecideStage(Stage):
    """Needs many rows at once. Only keys and scores travel, never whole rows."""

    @abstractmethod
    def keys(self, rows: pa.Table) -> pa.Table:
        """The data that `decide` needs about ``rows``: ``ref`` and keys, hashes or scores.

        Each row's depend on the row alone. It is called with a unit's rows.

        Args:
            rows: the columns of `reads`, ``row_id``, ``parent_id``, and ``ref`` (int64), the name
                by which a decision refers to a row.
        """

    @abstractmethod
    def decide(self, keys: Tables) -> Tables:
        """Decisions on rows, as steps over tables in parts (see `ray_pipeline.core.tables`).

        Returns: a table with ``ref``, ``status`` and ``reason`` (null: the row stays kept) and the
        columns of `writes` (evidence), at most one row for each ref. Rows without a decision are
        kept, without evidence. Winners and ids must depend on content alone: break ties by it.
        """

    def count(self, rows: pa.Table, counts: Counter[str]) -> None:
        """Add to the counters that the report shows, for the rows of one unit.

        Args:
            rows: those that the stage was given, with their envelope, after the decisions.
            counts: counters of the unit.
        """


@dataclass(frozen=True)
class Workplace:
    """The storage and the output that an `ArtifactStage` works with.

    Attributes:
        storage: the run directory.
        folder: the stage's own folder in it, for files from which a later attempt resumes.
        say: shows a line of progress to the user.
    """

    storage: Storage
    folder: str
    say: Callable[[str], None]


class ArtifactStage(Stage):
    """Makes files of all rows; the rows themselves go through unchanged.

    Stages after it run anew when it ran anew, so they may read what it made.
    """

    #: Whether it is refused without rows of the test split: a training before it says so.
    needs_test_rows: bool = False

    @property
    def makes(self) -> Sequence[str]:
        """Paths in the run of the files that it makes; it is done once all of them exist."""
        return ()

    def estimate(self, rows: pa.Table, scale: float) -> str | None:
        """A line for `plan` on the expected cost; None if no estimate can be made.

        Args:
            rows: a sample of the input rows; values that only a run can compute are null.
            scale: number of input rows that each row of the sample represents.
        """
        return None

    @abstractmethod
    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Make the files, resuming from what an earlier, killed attempt left.

        Returns: figures for ``metrics.json``, as plain data.

        Raises:
            RunError: the files cannot be made; the message says why.
        """

    def outcome(self, place: Workplace) -> Any:
        """Results that later stages depend on and that a second run might not reproduce exactly.

        They depend on the configuration and the rows in any case. None: on nothing else.
        """
        return None
