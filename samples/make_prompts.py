"""Writes writing_prompts.jsonl and writing_queries.jsonl: prompts composed of slots, and queries.

    python samples/make_prompts.py

The slots are in writing_slots.yaml. A prompt is composed of a character and a place of its genre and
a conflict of its theme, so which prompts a query asks for is known exactly, without a judge. A query
says what it wants in other words than the prompts. Genres, themes and wordings are each of one side,
train, validation or test: `configs/prompt_retrieval/demo.yaml` names the same.
"""

import json
import random
import re
from itertools import product
from pathlib import Path

import yaml

HERE = Path(__file__).parent
SIDES = ("train", "validation", "test")
PROMPTS_OF_A_CELL = 10
#: Details asked for in a query, and the number of such queries for each prompt.
DETAILS = (("character", "conflict"), ("conflict", "place"), ("character", "place"))
DETAIL_QUERIES = {"train": 1.0, "validation": 0.4, "test": 0.4}

TEMPLATES = (
    "{Place}, {character} {conflict}.",
    "{Character} {conflict}. It all happens {place}.",
    "Write about {character} who {conflict}, {place}.",
    "It begins {place}: {character} {conflict}.",
    "What changes when {character} {conflict}? Set the story {place}.",
    "{Character} arrives {place} and {conflict}.",
    "Told by a witness: {place}, {character} {conflict}.",
    "{Character} {conflict}. Tell it backwards, and end {place}.",
    "A single night {place}. {Character} {conflict}.",
    "Nobody expected it {place}, but {character} {conflict}.",
)
ADJECTIVES = ("Lost", "Accidental", "Last", "Silent", "Reluctant", "Borrowed", "Crooked", "Patient")

WORDINGS = {
    "genre": {
        "train": ("Find a {genre} writing prompt", "{genre} prompts", "I want to write {genre}",
                  "an idea for a {genre} story", "Give me something in the {genre} genre"),
        "validation": ("story starters, {genre}", "Show me {genre} ideas"),
        "test": ("Suggest a {genre} prompt", "What could I write in {genre}?", "{genre} inspiration, please"),
    },
    "theme": {
        "train": ("Find a writing prompt about {theme}", "{theme} prompts", "I want to write about {theme}",
                  "an idea for a story of {theme}", "Give me something that deals with {theme}"),
        "validation": ("story starters, theme {theme}", "Show me ideas on {theme}"),
        "test": ("Suggest a prompt on {theme}", "What could I write on {theme}?", "{theme} as a theme, please"),
    },
    "genre and theme": {
        "train": ("Find a {genre} prompt about {theme}", "{genre} and {theme}", "a {genre} story of {theme}",
                  "I want to write {genre} with {theme} in it", "{theme} in a {genre} setting"),
        "validation": ("{genre} starters on {theme}", "Show me {genre} ideas on {theme}"),
        "test": ("Suggest a {genre} prompt on {theme}", "What {genre} could I write on {theme}?",
                 "{theme}, but as {genre}, please"),
    },
    "paraphrase": {
        "train": ("something with {about}", "I am looking for {about}", "a story: {about}",
                  "prompts that have to do with {about}", "{about}"),
        "validation": ("tonight I feel like {about}", "ideas around {about}"),
        "test": ("Is there anything with {about}?", "My next piece is on {about}", "help me start: {about}"),
    },
    "detail": {
        "train": ("something with {about}", "I am looking for {about}", "the one with {about}",
                  "a prompt that mentions {about}", "{about}"),
        "validation": ("I remember {about}", "wasn't there one with {about}"),
        "test": ("Is there anything with {about}?", "find me {about}", "the prompt was on {about}"),
    },
}  # fmt: skip


def side_of(*sides):
    """The side of what belongs to several: test before validation before train."""
    return max(sides, key=SIDES.index)


def parts(line):
    return [part.strip() for part in line.split("|")]


def sentence(text):
    return text[0].upper() + text[1:]


def check(slots):
    """No slot has a word of a genre or theme: the tags would be in the text."""
    names = {
        word
        for group in ("genres", "themes")
        for name in slots[group]
        for word in re.findall(r"[a-z]{3,}", name.lower())
    } - {"first"}  # "First Love"
    for group in ("genres", "themes"):
        for name, entry in slots[group].items():
            lines = [
                *entry["about"],
                *(line for key in entry if key not in ("side", "about") for line in entry[key]),
            ]
            for line in lines:
                found = names & set(re.findall(r"[a-z]+", line.lower()))
                assert not found, f"{name}: {line!r} has {found}"


def prompts(slots, rng):
    for (genre, g), (theme, t) in product(slots["genres"].items(), slots["themes"].items()):
        combinations = list(product(g["characters"], g["places"], t["conflicts"]))
        for character, place, conflict in rng.sample(combinations, PROMPTS_OF_A_CELL):
            c, p, k = parts(character), parts(place), parts(conflict)
            number = rng.randrange(len(TEMPLATES))
            text = TEMPLATES[number].format(
                character=c[0],
                Character=sentence(c[0]),
                place=p[0],
                Place=sentence(p[0]),
                conflict=k[0],
            )
            yield {
                "prompt": text, "title": f"The {rng.choice(ADJECTIVES)} {c[2]}", "genre": genre, "theme": theme,
                "character": c[0], "place": p[0], "conflict": k[0], "template": f"t{number}",
            }  # fmt: skip


def queries(slots, rows, rng):
    seen = set()

    def row(kind, side, wants, about=None, **values):
        # Several wordings in training; the side's wordings only.
        number = rng.randrange(len(WORDINGS[kind][side]))
        text = WORDINGS[kind][side][number].format(about=about, **values)
        text = sentence(text)
        if (text, wants) in seen:
            return None
        seen.add((text, wants))
        empty = dict.fromkeys(("genre", "theme", "character", "place", "conflict"))
        return {
            "query": text,
            "kind": kind,
            "wording": f"{kind}-{side}-{number}",
            "wants": wants,
            **empty,
            **values,
        }

    def several(number, *arguments, **values):
        for _ in range(number):
            if (made := row(*arguments, **values)) is not None:
                yield made

    genres, themes = slots["genres"], slots["themes"]
    for kind, group in (("genre", genres), ("theme", themes)):
        for name, entry in group.items():
            yield from several(6, kind, entry["side"], kind, **{kind: name})
            for about in entry["about"]:
                yield from several(2, "paraphrase", entry["side"], kind, about, **{kind: name})
    for (genre, g), (theme, t) in product(genres.items(), themes.items()):
        side = side_of(g["side"], t["side"])
        yield from several(2, "genre and theme", side, "genre theme", genre=genre, theme=theme)
        for _ in range(2):
            about = f"{rng.choice(g['about'])}, and {rng.choice(t['about'])}"
            yield from several(
                1, "paraphrase", side, "genre theme", about, genre=genre, theme=theme
            )
    also = {}
    for group in (*genres.values(), *themes.values()):
        for key in ("characters", "places", "conflicts"):
            also |= {parts(line)[0]: parts(line)[1] for line in group.get(key, ())}
    for prompt in rows:
        side = side_of(genres[prompt["genre"]]["side"], themes[prompt["theme"]]["side"])
        if rng.random() < DETAIL_QUERIES[side]:
            # A detail of a held-out genre or theme is wanted, or the same was asked for in training.
            of = {"character": genres[prompt["genre"]], "conflict": themes[prompt["theme"]]} | {
                "place": genres[prompt["genre"]]
            }
            wanted = rng.choice(
                [
                    names
                    for names in DETAILS
                    if side_of(*(of[name]["side"] for name in names)) == side
                ]
            )
            about = ", ".join(also[prompt[name]] for name in wanted)
            values = {name: prompt[name] for name in ("genre", "theme", *wanted)}
            yield from several(1, "detail", side, " ".join(wanted), about, **values)


def write(name, rows):
    (HERE / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main():
    slots = yaml.safe_load((HERE / "writing_slots.yaml").read_text())
    check(slots)
    rng = random.Random(7)
    rows = list(prompts(slots, rng))
    rng.shuffle(rows)
    write("writing_prompts.jsonl", rows)
    write("writing_queries.jsonl", queries(slots, rows, rng))


if __name__ == "__main__":
    main()
