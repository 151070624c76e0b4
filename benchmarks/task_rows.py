"""Rows of three tasks as users have them, made up by a script: the same rows on every machine.

    python -m benchmarks.task_rows json --rows 300 --output notes    (train.jsonl, held_out.jsonl)

json    fields of an order note, as JSON of four keys
intent  the intent of a customer's message, one of twelve
tone    a reply in a house's own tone, which the prompt does not describe, with the facts of it

Sentences and things of the held-out rows differ in part from those of the training rows, and no
held-out prompt is trained.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks import parser_of

MOST_ROWS = 1000
NUM_HELD_OUT = 200


def _words(text: str) -> list[str]:
    return text.split()


ITEMS = _words(
    "lamps kettles chairs blankets candles mirrors baskets ladders clocks cushions curtains jugs "
    "plates ropes shelves stools tables towels trays vases hammers brushes pans rugs"
)
CITIES = _words(
    "Oslo Porto Ghent Turin Leeds Malmo Graz Basel Lyon Cork Bergen Vigo Trier Delft Parma Reims "
    "Split Tartu Zwolle Aarhus Bremen Dundee Galway Lucca"
)
NAMES = _words("Ada Bo Cem Dora Emil Fay Gus Hana Ivo Jun Kai Lena Mio Nora Otto Pia Ravi Sara")
URGENCY = {
    "normal": ("no hurry", "whenever it suits", "the usual way"),
    "high": ("this week please", "rather soon", "before the weekend"),
    "urgent": ("today if at all possible", "it cannot wait", "drop everything"),
}
NOTES = (
    "{name} called: {quantity} {item} for the shop in {city}, {when}.",
    "Please send {quantity} {item} to {city}, {when}. Thanks, {name}",
    "{city} branch needs {item} ({quantity} of them), {when}.",
    "Order from {name}: {item}, {quantity} pieces, deliver to {city}; {when}",
    "For {city}: {when}, {quantity} more {item}.",
    "{when}: {name} in {city} is out of {item}, get them {quantity}",
    "Got a mail from {city}. They want {item}. How many? {quantity}. {when}.",
    "{quantity} x {item} -> {city} ({when})",
)
INTENTS = {
    "cancel_order": (
        "please cancel my order of {item}",
        "I no longer want the {item}, stop it before it ships",
        "call off the {item} I bought yesterday",
        "can you undo my purchase of {item}?",
    ),
    "track_order": (
        "where are my {item}?",
        "when will the {item} get to {city}?",
        "has the parcel with the {item} left yet?",
        "my {item} should have been in {city} by now",
    ),
    "return_item": (
        "I want to send the {item} back",
        "how do I return {item} that I do not like?",
        "the {item} are not what I expected, who picks them up?",
        "need a label to ship the {item} back from {city}",
    ),
    "refund_status": (
        "when do I get my money for the {item}?",
        "the refund for the {item} has not arrived",
        "you owe me for {item} I sent back weeks ago",
        "is the money for the returned {item} on its way?",
    ),
    "damaged_item": (
        "the {item} came in pieces",
        "one of the {item} is cracked",
        "my {item} arrived broken in {city}",
        "there are scratches all over the {item}",
    ),
    "wrong_item": (
        "I ordered {item} and got something else",
        "these are not the {item} that I chose",
        "the box holds other things than my {item}",
        "you sent me the wrong {item}",
    ),
    "change_address": (
        "deliver the {item} to {city} instead",
        "I moved to {city}, please change where the {item} go",
        "the address of my order is old, use the one in {city}",
        "send the {item} to my office in {city} and not home",
    ),
    "payment_failed": (
        "my card was declined for the {item}",
        "I cannot pay for the {item}",
        "checkout says error when I pay for {item}",
        "the payment of the {item} does not go through",
    ),
    "invoice_request": (
        "I need a bill for the {item}",
        "please mail me the invoice of the {item}",
        "our office in {city} wants a receipt for the {item}",
        "can I have the tax document for my {item}?",
    ),
    "product_question": (
        "what are the {item} made of?",
        "how large are the {item}?",
        "can the {item} stay outside in winter?",
        "do the {item} come in green?",
    ),
    "opening_hours": (
        "when does the shop in {city} open?",
        "are you open on Sunday in {city}?",
        "until what time can I visit you in {city}?",
        "is the {city} store closed on holidays?",
    ),
    "talk_to_human": (
        "let me talk to a person",
        "I want someone real on the phone about the {item}",
        "no more robots, give me an agent",
        "can {name} from {city} call me back?",
    ),
}
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday")
REPLIES = (
    (
        "Where are my {item}?",
        "order {number}, {item}, arrives {day}, carried by {city} Post",
        "yer {item} of order {number} sail in on {day}, aboard {city} Post",
        ("{item}", "{number}", "{day}", "{city} Post"),
    ),
    (
        "What do the {item} cost?",
        "{item}, {quantity} dollars, on sale until {day}",
        "the {item} go for {quantity} dollars, and only until {day}",
        ("{item}", "{quantity} dollars", "{day}"),
    ),
    (
        "Can I bring the {item} back?",
        "order {number}, returns until {day}, at the shop in {city}",
        "haul order {number} back to the shop in {city} by {day}",
        ("{number}", "{city}", "{day}"),
    ),
    (
        "Do you have {item} in {city}?",
        "{city}: {quantity} {item} in stock, more on {day}",
        "{quantity} {item} lie in the hold at {city}, and more come on {day}",
        ("{quantity}", "{item}", "{city}", "{day}"),
    ),
)
GREETING, FAREWELL = "Ahoy, {name}! ", ". Fair winds from the crew of Tallow & Rope."


@dataclass(frozen=True, slots=True)
class TaskRow:
    """`facts`: texts that an answer has to hold, where it need not be `answer` itself."""

    prompt: str
    answer: str
    facts: tuple[str, ...] = ()

    def as_record(self) -> dict[str, object]:
        """Return the record of a training file."""
        return {
            "messages": [
                {"role": "user", "content": self.prompt},
                {"role": "assistant", "content": self.answer},
            ]
        }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("task", choices=list(MAKERS))
    parser.add_argument("--rows", type=int, default=MOST_ROWS, help="to train on")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    args = parser.parse_args()
    train, held_out = make_rows(args.task)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train[: args.rows]), ("held_out", held_out)):
        lines = "".join(json.dumps(row.as_record()) + "\n" for row in rows)
        (args.output / f"{name}.jsonl").write_text(lines)


def make_rows(task: str) -> tuple[list[TaskRow], list[TaskRow]]:
    """Return `MOST_ROWS` rows to train on, of which a smaller job takes the first, and the held-out
    ones.
    """
    make = MAKERS[task]
    rng = Random(task)
    train = [make(rng, False) for _ in range(MOST_ROWS)]
    trained = {row.prompt for row in train}
    held_out: list[TaskRow] = []
    while len(held_out) < NUM_HELD_OUT:
        row = make(rng, True)
        if row.prompt not in trained:
            trained.add(row.prompt)
            held_out.append(row)
    return train, held_out


def is_right(task: str, row: TaskRow, answer: str) -> bool:
    """Check an answer: the same JSON, the same label, or the tone with all facts."""
    answer = answer.strip()
    if task == "tone":
        start, end = row.facts[0], row.facts[-1]
        return (
            answer.startswith(start)
            and answer.endswith(end)
            and all(fact in answer for fact in row.facts)
        )
    if task == "json":
        try:
            return bool(json.loads(answer) == json.loads(row.answer))
        except ValueError:
            return False
    return answer == row.answer


def _json_row(rng: Random, held_out: bool) -> TaskRow:
    urgency = rng.choice(list(URGENCY))
    fields = _things(rng, held_out) | {"when": rng.choice(URGENCY[urgency])}
    note = _some(rng, NOTES, held_out).format(**fields)
    answer = {name: fields[name] for name in ("item", "quantity", "city")} | {"urgency": urgency}
    return TaskRow(
        f"Order note: {note}", json.dumps(answer | {"quantity": int(fields["quantity"])})
    )


def _intent_row(rng: Random, held_out: bool) -> TaskRow:
    intent = rng.choice(list(INTENTS))
    message = _some(rng, INTENTS[intent], held_out).format(**_things(rng, held_out))
    opening = rng.choice(("", "Hello, ", "Hi there, ", f"{rng.choice(NAMES)} here, "))
    ending = rng.choice(
        ("", " Thanks.", " It matters to me.", f" My order is {rng.randrange(9999)}.")
    )
    return TaskRow(f"{opening}{message}{ending}", intent)


def _tone_row(rng: Random, held_out: bool) -> TaskRow:
    question, facts, reply, needed = rng.choice(REPLIES)
    things = _things(rng, held_out)
    greeting, farewell = GREETING.format(**things).strip(), FAREWELL.removeprefix(". ")
    return TaskRow(
        f"{things['name']} asks: {question.format(**things)}\nFacts: {facts.format(**things)}",
        f"{GREETING}{reply}{FAREWELL}".format(**things),
        (greeting, *(fact.format(**things) for fact in needed), farewell),
    )


def _things(rng: Random, held_out: bool) -> dict[str, str]:
    return {
        "item": _some(rng, ITEMS, held_out),
        "city": _some(rng, CITIES, held_out),
        "name": rng.choice(NAMES),
        "day": rng.choice(DAYS),
        "quantity": str(rng.randrange(2, 90)),
        "number": str(rng.randrange(1000, 9999)),
    }


def _some(rng: Random, choices: Sequence[str], held_out: bool) -> str:
    """Choose one; the last quarter is never trained."""
    return rng.choice(choices if held_out else choices[: len(choices) * 3 // 4])


MAKERS: dict[str, Callable[[Random, bool], TaskRow]] = {
    "json": _json_row,
    "intent": _intent_row,
    "tone": _tone_row,
}


if __name__ == "__main__":
    main()
