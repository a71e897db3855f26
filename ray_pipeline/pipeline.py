"""A pipeline: an ordered list of stages with a name. A job script makes one and runs it."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ray_pipeline.core.config import override, parse, read_yaml
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.file_names import check_name, same_file
from ray_pipeline.core.redaction import has_login, literal_secrets, parts_of, remember
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.cluster import ship_with_workers
from ray_pipeline.engine.config import RunConfig, config_type
from ray_pipeline.engine.job_script import find_script, names_job
from ray_pipeline.engine.plan import StagePlan
from ray_pipeline.engine.plan import plan as plan_job
from ray_pipeline.engine.progress import Tally
from ray_pipeline.engine.run import Display, Job
from ray_pipeline.engine.run import run as start_job
from ray_pipeline.run import Run
from ray_pipeline.rundir.layout import CONFIG_FILE
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.stage import Stage

#: A YAML file, or its content.
Config = str | Path | Mapping[str, Any]
#: ``["a.b=c"]`` with values in YAML, or ``{"a.b": c}``.
Overrides = Sequence[str] | Mapping[str, Any]

_REPOSITORY = Path(__file__).resolve().parent.parent


class Pipeline:
    """An ordered list of stages.

    Args:
        name: the job's name, with dashes: ``qa-distillation``.
        stages: the stages, in order; their configurations come from YAML.

    Raises:
        ValueError: two stages have one name, or a name cannot be that of a folder.
        TypeError: a stage is not an object, as where the parentheses are missing.
    """

    def __init__(self, name: str, stages: Sequence[Stage]) -> None:
        for stage in stages:
            if not isinstance(stage, Stage):
                what = getattr(stage, "__name__", repr(stage))
                raise TypeError(f"a pipeline lists stage objects: write {what}(), not {what}")
        names = [stage.name for stage in stages]
        if doubled := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"stages with the same name: {sorted(doubled)}")
        for of_stage in names:
            check_name(of_stage)
        if (same := same_file(names)) is not None:
            raise ValueError(f"the stages {same[0]!r} and {same[1]!r} would have the same files")
        self.name = name
        self.stages = list(stages)

    def configure(self, raw: dict[str, Any], where: str) -> RunConfig:
        """Check a raw configuration against this pipeline's stages.

        Raises:
            UserError: lists every error, with the path of its key.
        """
        return parse(raw, config_type(self.stages), where)

    @classmethod
    def find(cls, config: Config) -> Pipeline:
        """The pipeline of the job that a configuration's ``job`` or ``name`` names.

        Raises:
            UserError: there is no such job script in ``jobs/``, or it cannot be loaded.
        """
        raw, file = _raw(config)
        return _pipeline_of(
            find_script(raw, str(file), _file(config), is_named=False, of_run=False)
        )

    def run(
        self,
        config: Config,
        overrides: Overrides = (),
        *,
        run_dir: str | None = None,
        until: str | None = None,
        address: str | None = None,
        display: Display | None = None,
        check: bool = True,
    ) -> Run:
        """Run the stages in this process, or continue a run that stopped.

        Args:
            config: a YAML file, or its content as a mapping.
            overrides: keys to set, as ``{"budget.max_cost_usd": 5}``.
            run_dir: the run directory, instead of the configuration's.
            until: the last stage to run, instead of the configuration's.
            address: the Ray cluster to join, instead of the configuration's. A cluster that this
                process has joined already is used whatever the address.
            display: receives progress updates; None: they are not shown.
            check: whether to raise an error where the run does not succeed. Without, the status
                of the returned run says how it ended.

        Returns:
            The run, as it stands in its directory.

        Raises:
            UserError: the configuration or the input is wrong; no row was touched.
            RunError: the run failed; what was committed is reused when it is run again.
            BudgetExhausted: the budget was spent; what was committed is reused.
            KeyboardInterrupt: the run was interrupted; what was committed is reused.
        """
        job = load_job(config, overrides, run_dir, self, address)
        return run_job(job, display=display, until=until, check=check)

    def plan(
        self,
        config: Config,
        overrides: Overrides = (),
        *,
        run_dir: str | None = None,
        until: str | None = None,
        address: str | None = None,
    ) -> list[StagePlan]:
        """Estimate what a run would do at each stage and what it would cost at most.

        Nothing is run or written.

        The arguments are those of `run`.

        Raises:
            UserError: the configuration or the input is wrong, or resources are missing.
        """
        return plan_job(load_job(config, overrides, run_dir, self, address), until)

    def retry(
        self,
        run: str,
        *,
        address: str | None = None,
        display: Display | None = None,
        check: bool = True,
    ) -> Run:
        """Run exactly the failed rows of a run again, with the run's own configuration.

        Arguments and errors are those of the method `run`, except for the first argument.

        Args:
            run: the run directory.
            address: the Ray cluster to join.
            display: receives progress.
            check: whether to raise an error where the run does not succeed.
        """
        with retry_job(run, self, address) as job:
            return run_job(job, display=display, retry=True, check=check)


class _Silent:
    """A display that shows nothing."""

    def say(self, text: str) -> None:
        pass

    def update(self, tally: Tally, starting: Sequence[str]) -> None:
        pass


def run_job(
    job: Job,
    *,
    display: Display | None = None,
    until: str | None = None,
    retry: bool = False,
    check: bool = True,
) -> Run:
    """Run a job: see `Pipeline.run`. With `retry`, only its failed rows run again."""
    start_job(job, display or _Silent(), until=until, retry=retry)
    run = Run(job.config.run_dir)
    if check:
        if run.status == "interrupted":
            raise KeyboardInterrupt(run.ledger.message)
        run.check()
    return run


@contextlib.contextmanager
def retry_job(
    run: str,
    pipeline: Pipeline | None = None,
    address: str | None = None,
    job: str | None = None,
) -> Iterator[Job]:
    """The job of a run directory, with the configuration and the prompts that the run had.

    It is valid within the block only.

    Args:
        run: the run directory.
        pipeline: the job; None: the one that `job` or the run's configuration names.
        address: the Ray cluster to join, instead of the configuration's.
        job: the job script, by name or path, instead of the configuration's.

    Raises:
        UserError: there is no run, its job script no longer exists, or the configuration names a
            script outside ``jobs/``, which `job` must name.
    """
    storage = Run(run).reader.storage
    with tempfile.TemporaryDirectory() as folder:
        for path in (CONFIG_FILE, *storage.list("prompts")):
            copy = Path(folder) / path
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(storage.read_bytes(path) or b"")
        config_file = Path(folder) / CONFIG_FILE
        raw = read_yaml(config_file) | {"run_dir": run} | ({"job": job} if job else {})
        if pipeline is None:
            where = storage.uri(CONFIG_FILE)
            script = find_script(raw, where, None, is_named=job is not None, of_run=True)
            pipeline = _pipeline_of(script)
        yield load_job(config_file, {"job": raw.get("job")}, run, pipeline, address)


def _with_count_of_old_run(raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration with ``budget.max_failed_rows`` as the run directory has meant it so far.

    A number like ``1.0`` was once a count; today it is refused, except where a run continues.
    """
    budget = raw.get("budget")
    limit = budget.get("max_failed_rows") if isinstance(budget, dict) else None
    if not isinstance(limit, float) or not 1 <= limit < 2**63:
        return raw
    if (_stored(raw).get("budget") or {}).get("max_failed_rows") != limit:
        return raw
    return override(raw, {"budget.max_failed_rows": int(limit)})


def _stored(raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration that the run directory holds; empty where there is none."""
    run_dir = raw.get("run_dir")
    if not isinstance(run_dir, str):
        return {}
    try:
        stored = yaml.safe_load(Storage(run_dir).read_bytes(CONFIG_FILE) or b"{}")
    except yaml.YAMLError:  # it is written anew
        return {}
    return stored if isinstance(stored, dict) else {}


def _check_secrets(raw: dict[str, Any], where: str) -> None:
    """Check that no secret is in the configuration as plain text.

    A run directory from before this was refused may hold one: it continues with it.

    Raises:
        UserError: a line for each, with how to write it.
    """
    literals = list(literal_secrets(raw))
    if not literals:
        return
    # A directory is the same one with credentials from elsewhere.
    is_open = all(key != "run_dir" for key, _, _ in literals)
    stored = {key: value for key, value, _ in literal_secrets(_stored(raw) if is_open else {})}
    lines = []
    for key, value, why in literals:
        if stored.get(key) == value:
            for secret in parts_of(value):
                remember(secret)
        else:
            lines.append(f"{key}: a secret as plain text ({why}). {_way_out(key, value)}")
    if lines:
        raise UserError(f"{where}: " + "\n".join(lines))


def _way_out(key: str, value: Any) -> str:
    """How to write a secret."""
    is_url = isinstance(value, str) and "://" in value
    if is_url and value.startswith("s3://"):
        how = "leave it out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
    elif is_url and has_login(value):
        how = (
            "put them into environment variables, and name those: https://${USER}:${PASSWORD}@host"
        )
    elif is_url:
        how = "put it into an environment variable, and name that: https://host/v1?key=${MY_KEY}"
    elif ".api_keys_env" in key:
        how = "put it into an environment variable, and give the variable's name"
    else:
        how = "put it into an environment variable, such as MY_KEY, and write ${MY_KEY} here"
    return f"{how}; what is written in configurations is kept in every run directory"


def load_job(
    config: Config,
    overrides: Overrides = (),
    run_dir: str | None = None,
    pipeline: Pipeline | None = None,
    address: str | None = None,
    script: str | None = None,
) -> Job:
    """Check a configuration and find its job.

    Args:
        config: a YAML file, or its content as a mapping.
        overrides: assignments as in ``budget.max_cost_usd=5``, or a mapping from dotted keys to
            values.
        run_dir: the run directory, instead of the configuration's.
        pipeline: the job; None: the one that the configuration's ``job`` or ``name`` names, a
            script in ``jobs/``.
        address: the Ray cluster to join, instead of the configuration's.
        script: the job script, by name or path, instead of the configuration's ``job``. One that
            lies in a run directory must be named here, or by an override.

    Raises:
        UserError: says each thing that is wrong.
    """
    raw, config_file = _raw(config)
    raw = override(raw, overrides)
    raw |= {"run_dir": run_dir} if run_dir is not None else {}
    raw |= {"address": address} if address is not None else {}
    raw |= {"job": script} if script is not None else {}
    raw = _with_count_of_old_run(raw)
    _check_secrets(raw, str(config_file))
    if pipeline is None:
        is_named = script is not None or names_job(overrides)
        found = find_script(raw, str(config_file), _file(config), is_named=is_named, of_run=False)
        pipeline = _pipeline_of(found)
    checked = pipeline.configure(raw, str(config_file))
    # Workers have another working directory: a relative path would name another folder there.
    checked = checked.model_copy(
        update={
            "run_dir": _absolute(checked.run_dir),
            "source": checked.source and _with_absolute_path(checked.source),
            "sources": {name: _with_absolute_path(s) for name, s in checked.sources.items()},
        }
    )
    return Job(checked, pipeline.stages, _prompt_folders(config_file, pipeline.name))


def _raw(config: Config) -> tuple[dict[str, Any], Path]:
    """A raw configuration and its file, beside which prompts are looked up."""
    if isinstance(config, Mapping):
        return dict(config), Path("configuration")
    return read_yaml(Path(config)), Path(config)


def _file(config: Config) -> Path | None:
    return None if isinstance(config, Mapping) else Path(config)


def _prompt_folders(config_file: Path, job: str) -> list[Path]:
    """Folders that prompts are looked up in, in order: the job's own before those all jobs share.

    The folders of other jobs come last, so that a new job can use their prompts by name.
    """
    roots = [
        config_file.parent / "prompts",
        config_file.parent.parent / "prompts",
        Path.cwd() / "configs" / "prompts",
        _REPOSITORY / "configs" / "prompts",
    ]
    own = [folder for root in roots for folder in (root / job.replace("-", "_"), root)]
    others = [folder for root in roots for folder in sorted(root.glob("*/"))]
    return [folder for folder in dict.fromkeys(own + others) if folder.is_dir()]


def _with_absolute_path(source: SourceConfig) -> SourceConfig:
    return source.model_copy(update={"path": _absolute_paths(source.path)})


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _absolute_paths(path: str | list[str]) -> str | list[str]:
    return _absolute(path) if isinstance(path, str) else [_absolute(p) for p in path]


def _pipeline_of(script: Path) -> Pipeline:
    spec = importlib.util.spec_from_file_location(f"ray_pipeline_job_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{script}: cannot be loaded: {type(error).__name__}: {error}") from error
    pipeline = getattr(module, "PIPELINE", None)
    if not isinstance(pipeline, Pipeline):
        raise UserError(f"{script}: has no PIPELINE = Pipeline(...)")
    ship_with_workers(module)
    return pipeline
