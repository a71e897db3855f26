"""What a job lists: descriptions of stages, their variations, and what they need of each other."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.command import REPOSITORY
from support.instruction_stages import STAGES
from support.stage_tables import reasons, settings, table

from jobs.qa_distillation import PIPELINE
from ray_pipeline.core.errors import UserError
from ray_pipeline.engine.prepare import _check_stages_needed
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stage import MapStage, Settings, Stage, StageConfig
from ray_pipeline.stages.questions.augment import Augment
from ray_pipeline.stages.questions.rephrase import Rephrase
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.tokenise import Tokenise

PAGE = REPOSITORY / "docs" / "howto" / "write-a-stage.md"


class Mark(MapStage):
    """Does nothing, for jobs."""

    name = "mark"

    class Config(StageConfig):
        suffix: str = "!"
        enabled: bool = True

    config: Config

    @property
    def is_off(self) -> bool:
        return not self.config.enabled

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        return rows


class After(Mark):
    name = "after"
    needs_stages = (Mark,)


def configured(stages: list[Stage], **sections: Any) -> Any:
    raw = {"name": "x", "run_dir": "r", "source": {"path": "p"}, "stages": sections}
    return Pipeline("x", stages).configure(raw, "here").stages


def test_two_stages_of_one_class_have_each_their_own_name_and_defaults() -> None:
    stages: list[Stage] = [Mark(), Mark(name="second", suffix="?")]
    section = configured(stages, mark={"suffix": "."})
    assert (section.stage_mark.suffix, section.stage_second.suffix) == (".", "?")
    assert Pipeline("x", stages).name == "x"
    with pytest.raises(ValueError, match=r"stages with the same name: \['mark'\]"):
        Pipeline("x", [Mark(), Mark(suffix="?")])


@pytest.mark.parametrize("name", ["../mark", "a/b", "", "m" * 300])
def test_a_stage_is_named_so_that_its_folder_can_be(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        Pipeline("x", [Mark(name=name)])


def test_two_stages_whose_folders_would_be_one_are_refused() -> None:
    with pytest.raises(ValueError, match="'mark' and 'Mark' would have the same files"):
        Pipeline("x", [Mark(), Mark(name="Mark")])


def test_a_class_in_place_of_an_object_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write Mark\(\), not Mark"):
        Pipeline("x", [Mark])  # type: ignore[list-item]


def test_a_default_must_be_one_of_the_configuration() -> None:
    with pytest.raises(TypeError, match=r"no field 'sufix'; did you mean 'suffix'"):
        Mark(sufix="?")
    with pytest.raises(TypeError, match="enabled"):
        Mark(enabled="perhaps")


def test_defaults_of_a_section_leave_its_other_fields() -> None:
    stage = Tokenise("prompt", "target", text={"learn": "all"})
    text = stage.bound({"text": {"max_tokens": 7}}).config.text
    assert (text.question_column, text.answer_column) == ("prompt", "target")
    assert (text.learn, text.max_tokens, text.style) == ("all", 7, "auto")
    assert list(stage.reads) == ["prompt", "target"]


def test_what_a_variation_is_called_and_asks() -> None:
    assert (Augment("plain").name, Rephrase("third").name) == ("augment-plain", "rephrase-third")
    config = Augment("plain", answer_min_words=3).bound().config
    assert (config.llm, config.prompt, config.answer_min_words) == ("plain", "augment_plain", 3)


def test_a_description_stays_as_it_is_when_it_is_bound() -> None:
    stage = Split()
    bound = stage.bound({"test": 0.5}, Settings(seed=3))
    assert (bound.config.test, bound.settings.seed) == (0.5, 3)
    assert not hasattr(stage, "config") and stage.bound().config.test == 0.05


def test_every_stage_travels_to_a_worker_with_its_configuration() -> None:
    for stage in (*PIPELINE.stages, *STAGES.values()):
        if any(info.is_required() for info in stage.config_type.model_fields.values()):
            continue
        bound = stage.bound(settings=settings())
        copy = pickle.loads(pickle.dumps(bound))
        assert copy.name == stage.name and copy.config == bound.config
        assert type(copy.config) is type(bound.config)


def test_a_stage_that_is_needed_is_before_it_and_on() -> None:
    def check(*stages: Stage) -> None:
        of_job = [stage.bound({"enabled": stage.name != "off"}) for stage in stages]
        _check_stages_needed(of_job)

    check(Mark(), After())
    for stages in ([After()], [After(), Mark()]):
        with pytest.raises(UserError, match=r"stages\.after needs a stage Mark before it"):
            check(*stages)
    with pytest.raises(UserError, match=r"stages\.after needs stages\.off, .*turn it on"):
        check(Mark(name="off"), After())


def test_of_several_stages_the_nearest_before_is_meant() -> None:
    stages = [Mark(name=name, suffix=name).bound() for name in ("a", "b", "c")]
    asking = Split(name="split").bound()
    seen = Settings(stages=[*stages[:2], asking, stages[2]])
    assert asking.bound(settings=seen).stage_of(Mark).config.suffix == "b"
    assert asking.bound(settings=seen).find_stage(Tokenise) is None
    with pytest.raises(UserError, match=r"stages\.split needs a stage Tokenise"):
        asking.bound(settings=seen).stage_of(Tokenise)


def code_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def test_the_stage_of_the_documentation_works() -> None:
    stage, job, *_, test = code_of(PAGE)
    names: dict[str, Any] = {"Pipeline": Pipeline, "Split": Split, "table": table}
    names |= {"reasons": reasons, "__name__": "example"}
    header = (
        "from __future__ import annotations\nfrom collections import Counter\n"
        "import pyarrow as pa\nimport pyarrow.compute as pc\nfrom pydantic import Field\n"
        "from ray_pipeline.core.rows import drop\n"
        "from ray_pipeline.stage import MapStage, StageConfig\n"
    )
    exec(header + stage + job + test, names)
    names["test_long_questions_are_dropped"]()
    pipeline = names["PIPELINE"]
    assert [stage.name for stage in pipeline.stages] == ["drop-long", "drop-very-short", "split"]
