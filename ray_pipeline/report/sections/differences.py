"""The differences between the evaluated models, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline.evaluate.text import QUALITY
from ray_pipeline.report.model_differences import ModelDifference, read_differences, read_seeds
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.report.sections.evaluation import STAGE, label


@dataclass(frozen=True)
class Comparison:
    """A line of the table: two models, and their difference in each metric."""

    model: str
    than: str
    #: In the order of the metrics; None where a metric was not compared.
    cells: list[ModelDifference | None]


@dataclass(frozen=True)
class Differences:
    """The section."""

    #: Labels of the metrics.
    metrics: list[str]
    comparisons: list[Comparison]
    #: Independent questions that were answered, and those of the perplexity.
    questions: int
    test_questions: int
    #: Trainings of each student.
    seeds: int


def read(reader: ReportReader) -> Differences | None:
    """Read the differences of a run's models; None where none were measured."""
    figures = reader.made_by(STAGE) or {}
    found, seeds = read_differences(figures), read_seeds(figures)
    if not found:
        return None
    metrics = [metric for metric in QUALITY if any(one.metric == metric.key for one in found)]
    by_name = {(one.model, one.than, one.metric): one for one in found}
    comparisons = [
        Comparison(label(model), label(than), [by_name.get((model, than, m.key)) for m in metrics])
        for model, than in dict.fromkeys((one.model, one.than) for one in found)
    ]
    numbers = {one.metric: one.questions for one in found}
    of_tokens = numbers.pop("perplexity", 0)
    return Differences(
        [metric.label for metric in metrics],
        comparisons,
        max(numbers.values(), default=0),
        of_tokens,
        1 if seeds is None else len(seeds.ratios),
    )


SECTION = Section("differences", "Models: differences with intervals", "differences.html.j2", read)
