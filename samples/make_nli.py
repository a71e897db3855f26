"""Makes ``nli.csv``: premise-hypothesis pairs from rules written for this project.

    python samples/make_nli.py > samples/nli.csv

Each premise has some hypotheses whose label follows from the rule that made them. Some rules are
traps: hypotheses that have every word of the premise and are not entailed, contradictions without a
negation, and negations that are entailed. No pair is from a benchmark.
"""

from __future__ import annotations

import csv
import random
import sys

#: A person or an animal, and a word that says less.
BEINGS = {
    "man": "person",
    "woman": "person",
    "girl": "child",
    "boy": "child",
    "dog": "animal",
    "horse": "animal",
    "nurse": "person",
    "farmer": "person",
    "sailor": "person",
    "student": "person",
    "cook": "person",
    "painter": "person",
    "drummer": "musician",
    "puppy": "dog",
    "cat": "animal",
    "singer": "musician",
}
#: What beings do: an action, one that says less, one that excludes it.
ACTIONS = [
    ("running along {place}", "moving", "standing still"),
    ("sleeping in {place}", "resting", "wide awake"),
    ("swimming across {place}", "in the water", "completely dry"),
    ("sitting in {place}", "seated", "standing up"),
    ("jumping over a fence near {place}", "off the ground", "lying on the ground"),
    ("eating an apple in {place}", "eating some fruit", "fasting"),
    ("waiting outside {place}", "outside", "inside a building"),
    ("climbing a ladder in {place}", "going up", "going down"),
    ("whispering in {place}", "speaking quietly", "shouting"),
    ("walking alone through {place}", "without company", "in a large group"),
]
PLACES = [
    "the park",
    "the old harbour",
    "a quiet garden",
    "the school yard",
    "the market",
    "a narrow street",
    "the river bank",
    "the train station",
    "a small village",
    "the stadium",
    "the green valley",
    "the library",
]
LOOKS = ["tall", "young", "tired", "happy", "wet", "brown-eyed", "limping", "nervous"]
#: Details that nothing in a premise settles.
EXTRAS = [
    "on a Sunday morning",
    "for the first time",
    "before the rain begins",
    "because of a bet",
    "with a friend's permission",
    "in front of a camera",
    "after a long journey",
    "for money",
]
#: What one being does to another.
DEEDS = [
    ("chasing", "following"),
    ("washing", "cleaning"),
    ("photographing", "looking at"),
    ("carrying", "holding"),
    ("teaching", "instructing"),
    ("pushing", "touching"),
]
#: What may be said, believed or hoped.
CLAIMS = [
    ("the bridge to {place} collapsed", "the bridge to {place} is intact"),
    ("the shop beside {place} opened", "the shop beside {place} stayed closed"),
    ("the team from {place} won the final", "the team from {place} lost the final"),
    ("the letter to {place} arrived", "the letter to {place} was lost"),
    ("the painting of {place} was sold", "the painting of {place} found no buyer"),
    ("the storm over {place} has passed", "the storm over {place} is still raging"),
]
NUMBERS = [("two", "three"), ("three", "four"), ("four", "five"), ("five", "six")]

Pair = tuple[str, str, str, str]


def a(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def scene(rng: random.Random) -> list[Pair]:
    """A being that does something somewhere."""
    being, place, look, extra = (rng.choice(x) for x in (list(BEINGS), PLACES, LOOKS, EXTRAS))
    action, less, excluded = rng.choice(ACTIONS)
    doing = action.format(place=place)
    premise = f"{a(f'{look} {being}').capitalize()} is {doing}"
    made = [
        (f"{a(BEINGS[being]).capitalize()} is {doing}", "entailment", "says less"),
        (f"{a(f'{look} {being}').capitalize()} is {less}", "entailment", "says less"),
        (f"{a(f'{look} {being}').capitalize()} is {doing} {extra}", "neutral", "adds a detail"),
        (f"There is no {being} {doing}", "contradiction", "negation"),
        (f"{a(f'{look} {being}').capitalize()} is not {doing}", "contradiction", "negation"),
        (f"The {look} {being} is {excluded}", "contradiction", "trap: no negation"),
        (f"The {being} is not {excluded}", "entailment", "trap: entailed negation"),
        (f"Every {being} in {place} is {look}", "neutral", "trap: says more"),
    ]
    return [(premise, *rest) for rest in rng.sample(made, 4)]


def _passive(verb: str) -> str:
    """The participle of a verb of `DEEDS`."""
    irregular = {"teaching": "taught", "carrying": "carried"}
    return irregular.get(verb, verb.removesuffix("ing") + "ed")


def deed(rng: random.Random) -> list[Pair]:
    """A being that does something to another one."""
    one, other = rng.sample(list(BEINGS), 2)
    (verb, less), place = rng.choice(DEEDS), rng.choice(PLACES)
    premise = f"The {one} is {verb} the {other} near {place}"
    made = [
        (f"The {other} is {verb} the {one} near {place}", "neutral", "trap: swapped"),
        (f"The {other} is being {_passive(verb)} by the {one}", "entailment", "passive"),
        (f"Near {place} the {one} is {less} the {other}", "entailment", "says less"),
        (f"Nobody near {place} is {verb} the {other}", "contradiction", "negation"),
        (
            f"The {one} near {place} has left the {other} alone all day",
            "contradiction",
            "trap: no negation",
        ),
        (
            f"The {one} is {verb} the {other} and a second {other} near {place}",
            "neutral",
            "adds a detail",
        ),
    ]
    return [(premise, *rest) for rest in rng.sample(made, 4)]


def claim(rng: random.Random) -> list[Pair]:
    """Something that somebody only says, or that did happen."""
    (fact, opposite), being = rng.choice(CLAIMS), rng.choice(list(BEINGS)[:2] + list(BEINGS)[6:13])
    look, place = rng.choice(LOOKS), rng.choice(PLACES)
    verb, label, kind = rng.choice(
        [
            ("hopes that", "neutral", "trap: only hoped"),
            ("says that", "neutral", "trap: only said"),
            ("has found out that", "entailment", "factive"),
            ("is glad that", "entailment", "factive"),
        ]
    )
    subject = rng.choice(PLACES)
    fact, opposite = fact.format(place=subject), opposite.format(place=subject)
    premise = f"The {look} {being} from {place} {verb} {fact}"
    against = "contradiction" if label == "entailment" else "neutral"
    return [
        (premise, fact.capitalize(), label, kind),
        (premise, opposite.capitalize(), against, f"{kind}, opposite"),
        (premise, f"No {being} from {place} says or thinks anything", "contradiction", "negation"),
    ]


def number(rng: random.Random) -> list[Pair]:
    """A number of beings."""
    (few, more), being, place = rng.choice(NUMBERS), rng.choice(list(BEINGS)), rng.choice(PLACES)
    plural = {"man": "men", "woman": "women", "puppy": "puppies"}.get(being, f"{being}s")
    action, _, _ = rng.choice(ACTIONS)
    doing = action.format(place=place).replace("alone ", "")
    premise = f"Exactly {more} {plural} are {doing}"
    made = [
        (f"More than one {being} is {doing}", "entailment", "number"),
        (f"At least {few} {plural} are {doing}", "entailment", "number"),
        (f"Exactly {few} {plural} are {doing}", "contradiction", "trap: no negation"),
        (f"No {plural} are {doing}", "contradiction", "negation"),
        (f"Exactly {more} {plural} are {doing} and laughing", "neutral", "adds a detail"),
        (f"All of the {more} {plural} are tired", "neutral", "adds a detail"),
    ]
    return [(premise, *rest) for rest in rng.sample(made, 4)]


def conditional(rng: random.Random) -> list[Pair]:
    """Two things, of which one depends on the other, or both are so."""
    one, other = rng.sample(list(BEINGS), 2)
    place, extra = rng.choice(PLACES), rng.choice(EXTRAS)
    if rng.random() < 0.5:
        where = f" by {place}"
        premise = f"If the gate is open, the {one} stays with the {other}{where}"
        return [
            (premise, f"The {one} stays with the {other}{where}", "neutral", "trap: condition"),
            (premise, f"The gate is open for the {one}{where}", "neutral", "trap: condition"),
            (
                premise,
                f"With the gate open, the {one} leaves the {other}{where}",
                "contradiction",
                "trap: no negation",
            ),
        ]
    premise = f"The {one} near {place} sings and the {other} dances {extra}"
    return [
        (premise, f"The {other} dances {extra}", "entailment", "part of it"),
        (premise, f"The {one} dances and the {other} sings {extra}", "neutral", "trap: swapped"),
        (premise, f"The {one} near {place} makes no sound", "contradiction", "trap: no negation"),
        (premise, f"The {other} near {place} sings", "neutral", "trap: swapped"),
    ]


RULES = (scene, scene, deed, claim, number, conditional)


def pairs(number: int, seed: int) -> list[Pair]:
    """At least a number of pairs, about a third of each label, none twice."""
    rng = random.Random(seed)
    found: dict[tuple[str, str], Pair] = {}
    while len(found) < number:
        for pair in rng.choice(RULES)(rng):
            found.setdefault(pair[:2], pair)
    return list(found.values())


def main() -> None:
    """Write the file."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["premise", "hypothesis", "label", "kind"])
    writer.writerows(pairs(1_100, seed=18))


if __name__ == "__main__":
    main()
