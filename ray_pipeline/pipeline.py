"""A pipeline: an ordered list of stages with a name. A job script makes one and runs it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_pipeline.core.config import nearest, override, parse, read_yaml
from ray_pipeline.core.errors import UserError
from ray_pipeline.engine.cluster import ship_with_workers
from ray_pipeline.engine.config import RunConfig, config_type
from ray_pipeline.engine.run import Job
from ray_pipeline.stage import Stage

_REPOSITORY = Path(__file__).resolve().parent.parent


class Pipeline:
    """An ordered list of stages.

    Args:
        name: the job's name, with dashes: ``qa-distillation``.
        stages: the stages, in order; their configurations come from YAML.

    Raises:
        ValueError: two stages have one name.
    """

    def __init__(self, name: str, stages: Sequence[Stage]) -> None:
        names = [stage.name for stage in stages]
        if doubled := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"stages with the same name: {sorted(doubled)}")
        self.name = name
        self.stages = list(stages)

    def configure(self, raw: dict[str, Any], where: str) -> RunConfig:
        """Check a raw configuration against this pipeline's stages.

        Raises:
            UserError: says each thing that is wrong, with its path.
        """
        return parse(raw, config_type(self.stages), where)


def load_job(
    config_file: Path,
    assignments: Sequence[str] = (),
    run_dir: str | None = None,
    pipeline: Pipeline | None = None,
) -> Job:
    """Read a configuration file and find its job.

    Args:
        config_file: YAML.
        assignments: overrides, as ``budget.max_cost_usd=5``.
        run_dir: overrides the configuration's.
        pipeline: the job, when the caller is its script; else the one that the configuration's
            ``job`` or ``name`` names, a script in ``jobs/``.

    Raises:
        UserError: says each thing that is wrong.
    """
    raw = override(read_yaml(config_file), assignments)
    if run_dir is not None:
        raw["run_dir"] = run_dir
    pipeline = pipeline or _find_pipeline(raw, config_file)
    config = pipeline.configure(raw, str(config_file))
    # Workers have another working directory: a relative path would name another folder there.
    config = config.model_copy(
        update={
            "run_dir": _absolute(config.run_dir),
            "source": config.source.model_copy(
                update={"path": _absolute_paths(config.source.path)}
            ),
        }
    )
    return Job(config, pipeline.stages, _prompt_folders(config_file, pipeline.name))


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


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _absolute_paths(path: str | list[str]) -> str | list[str]:
    return _absolute(path) if isinstance(path, str) else [_absolute(p) for p in path]


def _find_pipeline(raw: dict[str, Any], config_file: Path) -> Pipeline:
    """The pipeline of the job script that a configuration names."""
    folders = [Path.cwd() / "jobs", _REPOSITORY / "jobs"]
    scripts = {p.stem: p for f in reversed(folders) for p in f.glob("*.py") if p.stem != "__init__"}
    if job := raw.get("job"):
        script = Path(str(job))
        if script.suffix != ".py":
            script = scripts.get(str(job).replace("-", "_"), script)
        if not script.is_file():
            raise UserError(
                f"{config_file}: job: no job script {job!r}{nearest(str(job), list(scripts))}"
            )
        return _pipeline_of(script)
    for candidate in (
        str(raw.get("name", "")).replace("-", "_"),
        config_file.absolute().parent.name,
    ):
        if candidate in scripts:
            return _pipeline_of(scripts[candidate])
    raise UserError(
        f"{config_file}: neither `job` nor `name` ({raw.get('name')!r}) names a job script"
        f"{nearest(str(raw.get('name')), list(scripts))}"
    )


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
