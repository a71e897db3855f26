"""Makes `instructions.jsonl`: instructions and responses of very different quality, for the demo.

    python samples/make_instructions.py

All of it is written here; nothing comes from elsewhere. Good rows explain, compare, list steps and
reason; poor ones are too short, vague, repetitive or cut off, as in any scraped or generated corpus.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

ROWS = 2_400
Pair = tuple[str, str, str]

#: Name, what it is, why it matters, an example.
CONCEPTS = {
    "nature": [
        ("photosynthesis", "the way plants turn light, water and carbon dioxide into sugar and oxygen", "nearly every food chain begins with it", "a leaf in the sun makes sugar all day and uses some of it at night"),
        ("evaporation", "the change of a liquid into a gas below its boiling point", "it cools what it leaves and feeds the clouds", "a wet shirt dries on a line although nothing boils"),
        ("erosion", "the slow removal of soil and rock by water, wind and ice", "it shapes valleys and takes fertile ground away", "a river cuts a deeper bed every century"),
        ("pollination", "the transfer of pollen that lets a plant make seeds", "without it most fruit would not exist", "a bee that visits an apple tree carries pollen to the next one"),
        ("the water cycle", "the path of water from sea to cloud to rain and back", "it brings fresh water to places far from the sea", "rain on a mountain reaches the ocean weeks later"),
        ("gravity", "the pull between all things that have mass", "it keeps planets on their paths and air on the ground", "a dropped key and a dropped stone reach the floor together"),
        ("friction", "the resistance between surfaces that move against each other", "it lets us walk and it wears machines out", "brakes turn the speed of a bicycle into heat"),
        ("tides", "the rise and fall of the sea under the pull of the moon and the sun", "harbours plan their day by them", "a boat that floats at noon may lie on mud at six"),
        ("migration", "the seasonal journey of animals between two homes", "it lets them follow food and mild weather", "swallows leave before the first frost"),
        ("composting", "the controlled rotting of plants into dark, rich soil", "it returns nutrients that a harvest took away", "a heap of leaves and peels is soil by next spring"),
    ],
    "society": [
        ("inflation", "a general rise of prices over time", "savings buy less when it is high", "bread that cost two coins costs three a few years later"),
        ("insurance", "a contract that shares the cost of rare accidents among many people", "one bad day does not ruin a family", "a thousand owners pay a little so that one can rebuild a burnt house"),
        ("a budget", "a plan for what comes in and what goes out", "it shows in time when money will run short", "a household that writes down its rent and food knows what is left for travel"),
        ("a census", "a count of all the people in a country", "schools and hospitals are planned with it", "a town that has doubled gets a second fire station"),
        ("trade", "the exchange of goods between people or countries", "each can make what it makes best", "an island sells fish and buys timber"),
        ("a constitution", "the basic law that other laws must respect", "it limits what those in power may do", "a court can strike out a rule that breaks it"),
        ("compound interest", "interest that is paid on earlier interest as well", "small sums grow large over decades", "one hundred at seven percent doubles in about ten years"),
        ("a cooperative", "a business that belongs to the people who use it", "its profit goes back to its members", "farmers share one dairy and its income"),
    ],
    "computing": [
        ("recursion", "a way to solve a problem by solving smaller copies of it", "trees and nested lists become easy to handle", "the size of a folder is its files plus the sizes of the folders in it"),
        ("a hash table", "a structure that finds a value by computing its place from its key", "a lookup takes the same time for ten entries or ten million", "a phone book that opens by itself at the right page"),
        ("caching", "keeping a result close at hand so that it need not be computed again", "slow work is done once", "a browser stores a picture and shows it at once next time"),
        ("version control", "a record of every change to a set of files", "a mistake can be found and undone", "a team sees who changed a line, when and why"),
        ("encryption", "writing a message so that only a key makes it readable", "letters can travel over open roads", "a bank card number means nothing to whoever copies the signal"),
        ("a queue", "a list that gives back its oldest entry first", "work is done in the order in which it came", "a printer prints the first document first"),
        ("binary search", "finding a value in sorted data by halving the range again and again", "a million entries need about twenty looks", "guessing a number between one and a hundred takes seven guesses"),
        ("a unit test", "a small program that checks one part of a larger one", "changes that break something are noticed at once", "a test adds two prices and compares the sum with the expected one"),
        ("overfitting", "learning the examples by heart instead of what they have in common", "such a model fails on everything new", "a pupil who memorises answers cannot solve the next exercise"),
        ("a database index", "an ordered list beside a table that says where each value lies", "a query need not read every row", "the index at the end of a book saves reading all pages"),
    ],
    "daily life": [
        ("sourdough", "dough that is raised by wild yeast and bacteria", "it keeps longer and tastes of more than flour", "a starter that is fed every day raises a loaf overnight"),
        ("a compost bin", "a box in which kitchen scraps become soil", "a garden gets richer and the waste gets lighter", "coffee grounds and dry leaves in turn keep it from smelling"),
        ("insulation", "material that slows the flow of heat", "a house stays warm with less fuel", "a flask keeps tea hot because almost nothing touches the inner wall"),
        ("a first aid kit", "a small set of things to treat injuries until help comes", "minutes matter when someone bleeds", "plasters, a bandage, gloves and scissors fit in one pouch"),
        ("crop rotation", "growing different plants on one field from year to year", "pests lose their host and the soil recovers", "beans follow wheat and give back nitrogen"),
        ("interval training", "exercise that alternates hard and easy minutes", "the heart gets stronger in little time", "a runner sprints for one minute and walks for two"),
        ("a checklist", "a list of steps that are ticked one by one", "experts forget things too", "pilots read one before every take-off"),
        ("fermentation", "the change of sugar into acid or alcohol by microbes", "food keeps without a refrigerator", "cabbage and salt become sauerkraut in a few weeks"),
    ],
}  # fmt: skip

PROCEDURES = {
    "repot a houseplant": ["Water the plant a day before.", "Choose a pot that is two fingers wider.", "Put a layer of soil on the bottom.", "Loosen the roots and set the plant in.", "Fill up with soil and press it lightly.", "Water it and keep it out of the sun for a week."],
    "back up a laptop": ["Decide which folders you cannot lose.", "Connect an external disk.", "Copy the folders with a tool that checks what it wrote.", "Open a few files from the copy.", "Store the disk in another place.", "Repeat it every week."],
    "plan a small meeting": ["Write down the one decision that you need.", "Invite only those who can take it.", "Send the facts a day ahead.", "Begin on time and name the goal.", "Note who does what until when.", "Send the notes on the same day."],
    "learn a short speech": ["Cut the text into five parts.", "Give each part one picture in your mind.", "Say the first part aloud until it flows.", "Add the next part, and begin again from the start.", "Practise in front of a friend.", "Sleep, and say it once more in the morning."],
    "debug a failing test": ["Read the whole message, from the top.", "Run that test alone.", "Find the first value that is not what you expect.", "Ask which line could have made it.", "Change one thing and run it again.", "Write a test for the cause before you mend it."],
    "cook rice for four": ["Rinse two cups of rice until the water is clear.", "Add three cups of water and a little salt.", "Bring it to the boil.", "Cover it and turn the heat down.", "Wait fifteen minutes without lifting the lid.", "Let it rest for five minutes and loosen it with a fork."],
    "change a bicycle tyre": ["Open the brake and take the wheel out.", "Lever one side of the tyre over the rim.", "Pull out the tube and find the hole.", "Feel inside the tyre for what made it.", "Put in a new tube with a little air.", "Press the tyre back with your thumbs and pump it up."],
    "write a clear report": ["State the question in one sentence.", "Give the answer right after it.", "Show the figures that support it.", "Say what you did not measure.", "Cut every sentence that nobody would miss.", "Ask a colleague what they understood."],
    "clean a data set": ["Count the rows before you touch anything.", "Look at fifty of them with your own eyes.", "Write a rule for each fault that you saw.", "Keep what a rule removes, with the reason.", "Compare the counts before and after.", "Look at fifty rows again."],
    "start a vegetable bed": ["Choose a place with six hours of sun.", "Remove the grass with its roots.", "Loosen the soil as deep as a spade.", "Mix in two buckets of compost.", "Sow in rows, a finger deep.", "Water in the morning and pull weeds every week."],
}  # fmt: skip

FUNCTIONS = {
    "returns the largest number of a list": "def largest(numbers):\n    best = numbers[0]\n    for number in numbers[1:]:\n        if number > best:\n            best = number\n    return best",
    "counts the vowels of a word": "def vowels(word):\n    return sum(letter in 'aeiou' for letter in word.lower())",
    "reverses the words of a sentence": "def reversed_words(sentence):\n    return ' '.join(reversed(sentence.split()))",
    "tells whether a number is prime": "def is_prime(number):\n    if number < 2:\n        return False\n    divisor = 2\n    while divisor * divisor <= number:\n        if number % divisor == 0:\n            return False\n        divisor += 1\n    return True",
    "removes duplicates and keeps the order": "def distinct(items):\n    seen = set()\n    kept = []\n    for item in items:\n        if item not in seen:\n            seen.add(item)\n            kept.append(item)\n    return kept",
    "computes the mean of a list": "def mean(values):\n    if not values:\n        raise ValueError('no values')\n    return sum(values) / len(values)",
    "counts how often each word occurs": "def word_counts(text):\n    counts = {}\n    for word in text.lower().split():\n        counts[word] = counts.get(word, 0) + 1\n    return counts",
    "merges two sorted lists": "def merge(left, right):\n    merged = []\n    while left and right:\n        source = left if left[0] <= right[0] else right\n        merged.append(source.pop(0))\n    return merged + left + right",
}  # fmt: skip

AUDIENCES = ["a child of ten", "a new colleague", "your neighbour", "a class of beginners", "someone in a hurry", "an engineer from another field"]  # fmt: skip
NAMES = ["Ada", "Ben", "Chitra", "Diego", "Emine", "Femi", "Greta", "Hana", "Ivo", "Jun"]
THINGS = ["apples", "pencils", "tickets", "stamps", "bricks", "seeds", "coins", "books"]


def explained(draw: random.Random) -> Pair:
    field = draw.choice(list(CONCEPTS))
    name, what, why, example = draw.choice(CONCEPTS[field])
    audience = draw.choice(AUDIENCES)
    ask = draw.choice(
        [
            f"Explain {name} to {audience}, and say why it matters.",
            f"Describe what {name} is so that {audience} understands it. Give an example.",
            f"How would you explain {name} to {audience}, and why does it matter?",
        ]
    )
    answer = (
        f"{name[0].upper()}{name[1:]} is {what}. It matters because {why}.\n\n"
        f"Think of an example: {example}. {_closing(draw, name)}"
    )
    return ask, answer, "explanations"


def _closing(draw: random.Random, name: str) -> str:
    return draw.choice(
        [
            f"Whoever has seen this once will notice {name} in many other places.",
            "Once that is clear, the details are easy to add.",
            "That is the whole idea, and everything else follows from it.",
            f"So when someone speaks of {name}, ask what changes and what stays the same.",
        ]
    )


def compared(draw: random.Random) -> Pair:
    field = draw.choice(list(CONCEPTS))
    one, other = draw.sample(CONCEPTS[field], 2)
    ask = f"Compare {one[0]} and {other[0]}. How do they differ, and why does each matter?"
    answer = (
        f"First, {one[0]} is {one[1]}, and it matters because {one[2]}.\n\n"
        f"Second, {other[0]} is {other[1]}; it matters because {other[2]}.\n\n"
        f"Then look at two examples. For the first, {one[3]}. For the other, {other[3]}. "
        "They belong to one field, and they answer different questions."
    )
    return ask, answer, "explanations"


def steps(draw: random.Random) -> Pair:
    goal, lines = draw.choice(list(PROCEDURES.items()))
    number = draw.randint(4, len(lines))
    ask = draw.choice(
        [
            f"Write {number} steps to {goal}.",
            f"Describe how to {goal}, step by step.",
            f"How do I {goal}? Please create a short list.",
        ]
    )
    listed = "\n".join(f"{i}. {line}" for i, line in enumerate(lines[:number], 1))
    return ask, f"To {goal}, take these steps:\n\n{listed}\n\nFinally, check the result.", "steps"


def reasoned(draw: random.Random) -> Pair:
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    start, more, parts = draw.randint(12, 90), draw.randint(5, 60), draw.randint(2, 6)
    more += -(start + more) % parts
    ask = (
        f"{name} has {start} {thing} and gets {more} more. How many does each of {parts} friends "
        "get when all are shared equally?"
    )
    answer = (
        f"First add what {name} has and gets: {start} + {more} = {start + more} {thing}. "
        f"Then divide by the number of friends: {start + more} / {parts} = "
        f"{(start + more) // parts}. Finally, the answer: each friend gets "
        f"{(start + more) // parts} {thing}."
    )
    return ask, answer, "arithmetic"


def coded(draw: random.Random) -> Pair:
    task, code = draw.choice(list(FUNCTIONS.items()))
    name = draw.choice(NAMES)
    ask = draw.choice([f"Write a Python function that {task}.", f"{name} needs a Python function that {task}. Write it."])  # fmt: skip
    answer = (
        f"This function {task}:\n\n```python\n{code}\n```\n\n"
        "First try it with an empty input, then with a large one."
    )
    return ask, answer, "code"


def short(draw: random.Random) -> Pair:
    name, what, _, _ = draw.choice(CONCEPTS[draw.choice(list(CONCEPTS))])
    return f"What is {name}?", f"{name[0].upper()}{name[1:]} is {what}.", "short answers"


def summed(draw: random.Random) -> Pair:
    one, other = draw.randint(2, 99), draw.randint(2, 99)
    return f"What is {one} plus {other}?", f"{one + other}", "short answers"


def vague(draw: random.Random) -> Pair:
    name = draw.choice(CONCEPTS[draw.choice(list(CONCEPTS))])[0]
    ask = draw.choice([f"tell me {name}", f"{name}", f"say something on {name} thing"])
    answer = draw.choice(["It is good.", "ok", "I do not know it.", f"{name} is a thing that is.", "Sure! Here it is."])  # fmt: skip
    return ask, answer, "scraped"


def repeated(draw: random.Random) -> Pair:
    name, what, _, _ = draw.choice(CONCEPTS[draw.choice(list(CONCEPTS))])
    sentence = f"{name} is {what} "
    return f"give text about {name} now", (sentence * draw.randint(3, 6)).strip(), "scraped"


def cut_off(draw: random.Random) -> Pair:
    ask, answer, _ = explained(draw)
    words = answer.replace("\n\n", " ").split()
    return ask, " ".join(words[: draw.randint(4, 14)]), "scraped"


def noise(draw: random.Random) -> Pair:
    words = [draw.choice(THINGS + NAMES) for _ in range(draw.randint(8, 40))]
    return f"{draw.choice(THINGS)} {draw.choice(THINGS)}", " ".join(words).lower(), "scraped"


KINDS = {
    explained: 24, compared: 14, steps: 9, reasoned: 18, coded: 5, short: 6, summed: 6, vague: 6, repeated: 5,
    cut_off: 8, noise: 5,
}  # fmt: skip


def rows(number: int) -> Iterator[dict[str, str]]:
    """Distinct rows, as far as there are any; the same ones every time."""
    draw, seen = random.Random(7), set()
    kinds, weights = list(KINDS), list(KINDS.values())
    while len(seen) < number:
        instruction, response, source = draw.choices(kinds, weights)[0](draw)
        if (instruction, response) not in seen or draw.random() < 0.01:
            seen.add((instruction, response))
            yield {"instruction": instruction, "response": response, "source": source}


def main() -> None:
    path = Path(__file__).with_name("instructions.jsonl")
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(ROWS))


if __name__ == "__main__":
    main()
