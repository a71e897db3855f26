"""What is known of the records comes out of the analysis."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_cells import (
    CONTROL_LAW,
    LAW,
    SIZES,
    TOKENS_A_ROW,
    VOCABULARY,
    cells,
    law,
    record,
    records,
)

from ray_pipeline.evaluate.experiment.analysis import Question, analyse
from ray_pipeline.evaluate.experiment.cells import Cell, groups
from ray_pipeline.evaluate.experiment.threshold import by_intervals, by_rule

SMALL, MIDDLE, LARGE = SIZES
QUESTION = Question(VOCABULARY, resamples=20)


def analysed(made: list[dict[str, Any]], question: Question = QUESTION) -> dict[str, Any]:
    """The only mode, with the whole analysis as ``whole``."""
    whole = analyse([Cell.from_json(one) for one in made], question)
    (mode,) = whole["modes"].values()
    return {**mode, "whole": whole, "by_name": {one["subset"]: one for one in mode["subsets"]}}


def losses(of: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Records of subsets with these losses of their seeds, ten times larger each."""
    return [
        record(name, seed, loss, 1_000 * 10**place)
        for place, (name, several) in enumerate(of.items())
        for seed, loss in enumerate(several)
    ]


def test_means_and_performances_are_those_of_their_definitions() -> None:
    found = analysed(losses({"few": [3.0, 3.2, 3.1], "many": [2.0, 2.1, 2.2]}))
    few = found["by_name"]["few"]
    assert few["loss"]["mean"] == pytest.approx(3.1)
    assert few["perplexity"]["mean"] == pytest.approx(math.exp(3.1))
    assert few["perplexity"]["high"] == pytest.approx(math.exp(few["loss"]["high"]))
    assert few["performance_per_sample"] == pytest.approx(1 / (math.exp(3.1) * 1_000))
    assert few["gain"] == pytest.approx(math.log(VOCABULARY) - 3.1)
    assert few["gain_per_1000_rows"] == pytest.approx(few["gain"])
    assert few["gain_per_million_tokens"] == pytest.approx(10 * few["gain"])
    assert few["gain_per_million_tokens_seen"] == pytest.approx(10 * few["gain"] / 3)
    assert few["seconds_per_row"] == pytest.approx(0.03)
    assert few["tokens_per_second"]["mean"] == pytest.approx(10_000)


def test_the_target_is_what_every_cell_reaches_unless_it_is_configured() -> None:
    made = losses({"few": [3.0, 3.2], "many": [2.0, 2.1]})
    found = analysed(made)
    assert found["target"]["from"] == "all cells"
    worst = min(point["loss"] for point in made[1]["curve"])
    assert found["target"]["perplexity"] == pytest.approx(math.exp(worst))
    for one in found["subsets"]:
        assert one["to_target"]["reached"] == one["to_target"]["seeds"] == 2

    twenty = analysed(made, Question(VOCABULARY, target=math.exp(2.5)))
    few, many = (twenty["by_name"][name]["to_target"] for name in ("few", "many"))
    assert few["reached"] == 0 and few["seconds"] is None and few["tokens"] is None
    assert many["reached"] == 2 and many["tokens"]["mean"] < 3_000_000


def test_a_subset_of_which_one_seed_never_arrives_has_no_time() -> None:
    made = losses({"few": [2.0, 3.2], "many": [2.0, 2.1]})
    found = analysed(made, Question(VOCABULARY, target=math.exp(2.5)))["by_name"]["few"]
    assert found["to_target"]["reached"] == 1
    assert found["to_target"]["seconds"] is None


def test_selection_is_judged_by_the_pairs_of_a_seed() -> None:
    found = analysed(records(noise=0.2))  # far more luck of a seed than there is between subsets
    by_name = {one["subset"]: one for one in found["controls"]}
    small = by_name[SMALL]
    truth = law(1e6, *LAW) - law(1e6, *CONTROL_LAW)
    assert small["difference"]["low"] < truth < small["difference"]["high"]
    assert small["verdict"] == "helps"
    assert small["perplexity_ratio"]["mean"] == pytest.approx(math.exp(small["difference"]["mean"]))


def test_what_a_subset_is_worth_in_random_rows() -> None:
    found = analysed(records(noise=0))["controls"]
    worth = [one["worth_random_rows"] for one in found]
    assert worth[0]["is"] == "about" and 10_000 < worth[0]["rows"] < 100_000
    assert worth[2] == {"is": "more than", "rows": 1_000_000}
    same = analysed(records(noise=0, of_subset=lambda tokens: law(tokens, *CONTROL_LAW)))
    assert [one["worth_random_rows"]["rows"] for one in same["controls"]] == pytest.approx(
        list(SIZES.values())
    )
    bad = analysed(records(noise=0, of_subset=lambda tokens: 9.0))
    assert bad["controls"][0]["worth_random_rows"] == {"is": "less than", "rows": 10_000}
    assert {one["verdict"] for one in bad["controls"]} == {"hurts"}


@pytest.mark.parametrize(
    ("perplexities", "threshold", "is_largest"),
    [
        ([10, 20, 30], "a", False),
        ([19, 20, 30], "b", False),
        ([18.0001, 20, 20.1], "c", True),  # not more than 10% better
        ([30, 20, 10], "c", True),
        ([10, 20], "a", False),
        ([20, 19.9, 20, 30, 31], "c", False),
    ],
)
def test_the_seeds_rule_takes_the_first_that_is_a_tenth_better_than_the_next(
    perplexities: list[float], threshold: str, is_largest: bool
) -> None:
    names = "abcde"
    made = losses({n: [math.log(p)] for n, p in zip(names, perplexities, strict=False)})
    rule = analysed(made)["threshold"]["rule"]
    assert (rule["subset"], rule["is_largest"]) == (threshold, is_largest)
    assert rule["steps"][0]["lower_by"] == pytest.approx(1 - perplexities[0] / perplexities[1])


@pytest.mark.parametrize(
    ("lead", "spread", "verdict"),
    [
        (-0.5, 0.01, "better"),
        (0.02, 0.01, "enough"),
        (0.02, 0.5, "undecided"),
        (0.5, 0.01, "worse"),
    ],
)
def test_by_the_intervals_a_subset_is_enough_when_it_is_surely_not_much_worse(
    lead: float, spread: float, verdict: str
) -> None:
    few = [3 + lead - spread, 3 + lead, 3 + lead + spread]
    found = analysed(losses({"few": few, "many": [3.0, 3.0, 3.0]}))["threshold"]["intervals"]
    assert found["comparisons"][0]["verdict"] == verdict
    assert found["margin"] == pytest.approx(-math.log(0.9))
    assert found["subset"] == ("few" if verdict in ("better", "enough") else "many")


@given(
    st.lists(st.lists(st.floats(0.1, 12), min_size=3, max_size=3), min_size=2, max_size=5),
    st.floats(0.01, 0.5),
)
@settings(max_examples=50, deadline=None)
def test_what_is_recommended_is_always_one_of_the_subsets(
    several: list[list[float]], better_by: float
) -> None:
    made = losses({f"s{place}": of for place, of in enumerate(several)})
    found = groups([Cell.from_json(one) for one in made], "epochs")
    names = [group.first.subset for group in found]
    rule, intervals = by_rule(found, better_by), by_intervals(found, better_by)
    assert rule["subset"] in names and intervals["subset"] in names
    assert rule["is_largest"] is all(step["lower_by"] <= better_by for step in rule["steps"])


def test_one_seed_gives_figures_without_intervals_and_says_so() -> None:
    found = analysed(records(seeds=1))
    assert all(one["loss"]["low"] is None for one in found["subsets"])
    assert {one["verdict"] for one in found["controls"]} == {"unknown"}
    assert found["threshold"]["intervals"]["subset"] is None
    assert found["threshold"]["rule"]["subset"] is not None
    assert f"{SMALL}: one seed, so its figures have no interval" in found["notes"]
    assert any("nothing can be recommended" in said for said in found["recommendation"])


def test_without_controls_what_quality_does_is_not_known() -> None:
    found = analysed(records(controls=False))
    assert {one["verdict"] for one in found["controls"]} == {"unknown"}
    assert {one["worth_random_rows"] for one in found["controls"]} == {None}
    assert "why" in found["scaling"]["controls"]
    assert sum("no random control" in note for note in found["notes"]) == 3


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_a_training_that_diverged_is_left_out_and_named(nothing: float | None) -> None:
    made = records()
    made[0]["test_loss"] = nothing
    made[0]["curve"][5]["loss"] = nothing
    made[0] |= {"parameters": None, "test_tokens": None}  # never counted
    found = analysed(made)
    assert [one["cell"] for one in found["whole"]["excluded"]] == [made[0]["cell"]]
    assert found["by_name"][made[0]["subset"]]["seeds"] == [2, 3]
    assert found["by_name"][made[0]["subset"]]["diverged_seeds"] == [1]
    assert any(made[0]["cell"] in note and "diverged" in note for note in found["notes"])
    # The pair that is left still tells.
    assert found["controls"][0]["difference"]["number"] == 2


def test_a_subset_that_diverged_altogether_has_no_figures() -> None:
    made = records()
    for one in made:
        if one["subset"] == SMALL:
            one["test_loss"] = None
    found = analysed(made)
    assert SMALL not in found["by_name"]
    assert f"{SMALL}: every training diverged, so it has no figures" in found["notes"]
    assert len(found["threshold"]["rule"]["steps"]) == 1

    for one in made:
        one["test_loss"] = None
    found = analysed(made)
    assert found["subsets"] == [] and found["target"]["perplexity"] is None
    assert found["threshold"]["rule"]["subset"] is None
    assert found["recommendation"]


def test_of_several_learning_rates_the_validation_rows_choose() -> None:
    made = [
        record(seed=seed, learning_rate=rate, loss=loss, validation_loss=validation)
        for seed in (1, 2)
        for rate, loss, validation in [(1e-4, 2.0, 3.1), (2e-4, 3.0, 3.0)]
    ]
    (found,) = analysed(made)["subsets"]
    assert found["learning_rate"] == 2e-4 and found["loss"]["mean"] == 3.0
    assert found["learning_rates_tried"] == [1e-4, 2e-4]
    # One at which a seed diverged is not taken, however good the other was.
    made[3]["test_loss"] = None
    (found,) = analysed(made)["subsets"]
    assert found["learning_rate"] == 1e-4


def test_a_control_that_is_the_same_training_is_told() -> None:
    made = records(noise=0)
    whole = {one["seed"]: one for one in made if one["subset"] == LARGE}
    for one in made:
        if one["subset"] == f"{LARGE}-random":
            one |= {"test_loss": whole[one["seed"]]["test_loss"]}
            one["trained_as"] = whole[one["seed"]]["cell"]
    found = analysed(made)
    said = [note for note in found["notes"] if "same rows" in note]
    assert said == [f"{LARGE}: its control has the same rows, so there is nothing to compare"]
    assert found["controls"][2]["verdict"] == "undecided"


def test_modes_stand_apart() -> None:
    whole = analyse(cells(modes=("epochs", "tokens")), QUESTION)
    assert list(whole["modes"]) == ["epochs", "tokens"]
    seen = {one["tokens_seen"] for one in whole["modes"]["tokens"]["subsets"]}
    assert seen == {5_000_000}


def test_order_of_the_records_does_not_matter() -> None:
    made = cells()
    assert analyse(made, QUESTION)["modes"] == analyse(made[::-1], QUESTION)["modes"]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="no cells"):
        analyse([], QUESTION)
    made = records()
    with pytest.raises(ValueError, match="two records of ultra_high_10k, mode epochs, seed 1"):
        analysed([*made, made[0]])
    made[0]["test_tokens"] = 7
    with pytest.raises(ValueError, match="different test rows"):
        analysed(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"test_loss": "low"}, "could not convert"), ({"seconds": []}, "wrong type")],
)
def test_a_record_that_is_none_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cell.from_json(record(**change))
    whole = record()
    del whole["curve"]
    with pytest.raises(ValueError, match="it has no 'curve'"):
        Cell.from_json(whole)


def test_the_scaling_law_of_the_records_is_found() -> None:
    sizes = {f"s{n}": n for n in (1_000, 10_000, 100_000, 1_000_000, 10_000_000)}
    found = analysed(records(sizes=sizes, noise=0))["scaling"]
    for name, truth in (("subsets", LAW), ("controls", CONTROL_LAW)):
        fitted = found[name]
        assert (fitted["e"], fitted["b"], fitted["beta"]) == pytest.approx(truth, rel=1e-3)
    assert TOKENS_A_ROW * 1_000 == 1e5


def with_draws(spread: float, lead: float = 0.2, draws: int = 3) -> list[dict[str, Any]]:
    """Records of a subset that is better than the mean of random draws, which differ."""
    made = [record("few", seed, 3.0 - lead + 0.001 * seed, 1_000) for seed in (1, 2, 3)]
    for draw in range(1, draws + 1):
        name = "few-random" if draw == 1 else f"few-random-{draw}"
        luck = spread * (draw - (draws + 1) / 2)
        for seed in (1, 2, 3):
            one = record("few", seed, 3.0 + luck + 0.002 * (seed == 2), 1_000, control=True)
            made.append(one | {"subset": name, "cell": f"{name}.{seed}"})
    return made


def test_several_draws_carry_the_choice_of_rows_into_the_verdict() -> None:
    """Three draws that differ by more than the lead: one alone would have called it certain."""
    (one,) = analysed(with_draws(0.2))["controls"]
    assert (one["control"], one["draws"], one["verdict"]) == ("few-random", 3, "undecided")
    assert one["covers"] == ["seeds", "choice of random rows"]
    assert one["difference"]["mean"] == pytest.approx(-0.1987, abs=1e-3)
    (alone,) = analysed(with_draws(0.0, draws=1))["controls"]
    assert alone["verdict"] == "helps" and alone["covers"] == ["seeds"]
    assert analysed(with_draws(0.02))["controls"][0]["verdict"] == "helps"


def test_the_sentences_say_which_chances_an_interval_carries() -> None:
    said = " ".join(analysed(with_draws(0.02))["recommendation"])
    assert "3 random draws; p 0.0" in said
    assert "which random rows are drawn. They do not carry that of which rows are tested" in said
    found = analysed(with_draws(0.02) + records())
    said = " ".join(found["recommendation"])
    assert "dropout) and the chance of which random rows are drawn at 1,000 rows. They" in said
    assert "rows are drawn at 10,000, 100,000 and 1,000,000 rows, where there is one draw" in said
    assert "Holm's correction for 4 comparisons" in said
    assert "not that of which rows are in a subset and which are tested on" in said


def test_a_verdict_needs_a_p_that_outlives_holms_correction() -> None:
    """Of six sizes one has p = .02: alone it helps, among six it is what chance finds."""
    lucky = {"s0": [-0.05, -0.09, -0.07]}
    lucky |= {f"s{n}": [-0.3, 0.1, 0.25] for n in range(1, 6)}
    made = [
        record(name, seed, 3.0 + (0 if control else lead[seed - 1]), 10**place * 10, control)
        for place, (name, lead) in enumerate(lucky.items())
        for seed in (1, 2, 3)
        for control in (False, True)
    ]
    found = analysed(made)["controls"][0]
    assert found["p_value"] == pytest.approx(0.0265, abs=1e-3)
    assert found["p_adjusted"] == pytest.approx(6 * found["p_value"])
    assert found["difference"]["high"] < 0 and found["verdict"] == "undecided"
    (alone,) = analysed([one for one in made if one["of"] == "s0"])["controls"]
    assert alone["verdict"] == "helps" and alone["p_adjusted"] == alone["p_value"]


def test_draws_of_one_size_are_one_size_of_the_scaling_law() -> None:
    """They differ in tokens, and would else count as sizes that show the law's bend."""
    more = [
        one
        | {"subset": f"{one['subset']}-2", "cell": f"{one['cell']}-2", "tokens": one["tokens"] + 9}
        for one in records()
        if one["control"]
    ]
    law = analysed(records() + more)["scaling"]["controls"]
    assert law["sizes"] == 3 and any("3 parameters and 3 sizes" in r for r in law["remarks"])
