"""The demo's small world: a web shop for household electrics, its customers and what goes wrong.

A case is a customer, a product, a problem and the words of the message. Products and problems
are named by one word each (`TOPIC_WORDS`), which the customer always uses and which nothing else in
the world uses, so whether a reply is on topic can be read off it.
"""

from __future__ import annotations

import dataclasses
import random
import re

PRODUCTS = (
    "kettle", "lamp", "toaster", "radio", "fan", "heater", "clock", "blender", "camera", "printer",
    "speaker", "keyboard", "monitor", "vacuum", "mixer", "drill", "router", "tablet", "phone", "shaver",
)  # fmt: skip

NAMES = (
    "Maya", "Omar", "Lena", "Tom", "Aisha", "Ben", "Chloe", "Diego", "Emma", "Felix", "Grace", "Hugo",
    "Ines", "Jonas", "Kira", "Leo", "Mina", "Noah", "Olga", "Paul",
)  # fmt: skip

INTRODUCTIONS = (
    "Hi, this is {name}.",
    "Hello, my name is {name}.",
    "Good morning, this is {name}.",
    "Hello, {name} here.",
)

SITUATIONS = (
    "I bought a {product} from you last week",
    "I ordered a {product} for my mother",
    "I ordered a {product} in your spring sale",
    "I bought a {product} as a birthday gift",
    "We ordered a {product} for our office",
    "We bought a {product} for the new flat",
    "I got a {product} in your web shop in May",
    "My sister and I chose a {product} together",
)

REQUESTS = (
    "What can I do?",
    "Can you help me?",
    "What happens to my {product} now?",
    "Please tell me what to do with the {product}.",
    "How do we solve this?",
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that goes wrong.

    Attributes:
        word: The topic word that names the problem.
        slice: The kind of problem, as results are grouped.
        complaints: Clauses in which a customer reports it; ``it`` is the product.
        trouble: A noun phrase in which a reply names it.
        steps: Clauses in which a reply promises the step that fits.
        step_words: Words of which every fitting step holds one.
    """

    word: str
    slice: str
    complaints: tuple[str, ...]
    trouble: str
    steps: tuple[str, ...]
    step_words: tuple[str, ...]


PROBLEMS = (
    Problem(
        "noise",
        "fault",
        ("it makes a loud noise", "there is a strange noise when I use it"),
        "the noise from your {product}",
        ("I will book a free repair for tomorrow", "the repair on Friday is free of charge"),
        ("repair",),
    ),
    Problem(
        "smell",
        "fault",
        ("it gives off a burning smell", "there is a bad smell when it gets warm"),
        "the smell of your {product}",
        ("please unplug it while I send you a new one", "unplug it now and a new one comes tomorrow"),
        ("unplug",),
    ),
    Problem(
        "power",
        "fault",
        ("it gets no power at all", "the power goes off after a minute"),
        "the power trouble with your {product}",
        ("I will mail you a new adapter today", "a stronger adapter will reach you on Friday"),
        ("adapter",),
    ),
    Problem(
        "crack",
        "damage",
        ("it has a crack on the side", "I found a long crack in it"),
        "the crack in your {product}",
        ("one photo is enough and I will replace it", "send me a photo and a new one comes tomorrow"),
        ("photo",),
    ),
    Problem(
        "cable",
        "damage",
        ("the cable was not in the box", "it came with a torn cable"),
        "the cable of your {product}",
        ("I will pack a new cable for you tonight", "a new cable is packed and leaves today"),
        ("pack", "packed"),
    ),
    Problem(
        "button",
        "damage",
        ("the main button is stuck", "one button fell off on the first day"),
        "the button on your {product}",
        ("our workshop will fix it at no cost", "I will have our workshop fix it on Monday"),
        ("workshop",),
    ),
    Problem(
        "late",
        "delivery",
        ("it is two weeks late", "it is already very late"),
        "the late delivery of your {product}",
        ("I will call the courier and ring you by noon", "the courier will bring it tomorrow before noon"),
        ("courier",),
    ),
    Problem(
        "address",
        "delivery",
        ("it went to the wrong address", "you sent it to my old address"),
        "the address on your {product} order",
        ("I will turn the parcel around today", "the parcel turns around tonight and comes to you"),
        ("parcel",),
    ),
    Problem(
        "colour",
        "delivery",
        ("it came in the wrong colour", "the colour is not the one on your page"),
        "the colour of your {product}",
        ("I will swap it at your door this week", "we will swap it on Friday and you pay nothing"),
        ("swap",),
    ),
    Problem(
        "twice",
        "billing",
        ("I was charged twice for it", "you took the money twice"),
        "being charged twice for your {product}",
        ("the refund reaches your bank on Monday", "I will send the refund to your bank today"),
        ("refund",),
    ),
    Problem(
        "invoice",
        "billing",
        ("I never got an invoice", "the invoice shows a wrong sum"),
        "the invoice for your {product}",
        ("I will email you a correct one tonight", "a correct one comes by email within the hour"),
        ("email",),
    ),
    Problem(
        "discount",
        "billing",
        ("the discount was not counted", "your page promised a discount that I did not get"),
        "the discount on your {product}",
        ("I will put the difference on your card today", "the difference goes back to your card tonight"),
        ("difference",),
    ),
)

TOPIC_WORDS = (*PRODUCTS, *(problem.word for problem in PROBLEMS))


@dataclasses.dataclass(frozen=True)
class Case:
    """A customer with a product and a problem, and the message that reports it."""

    name: str
    product: str
    problem: Problem
    message: str


def draw_case(rng: random.Random) -> Case:
    """Draw a case: customer, product, problem and the words of the message are independent."""
    name, product, problem = rng.choice(NAMES), rng.choice(PRODUCTS), rng.choice(PROBLEMS)
    introduction = rng.choice(INTRODUCTIONS).format(name=name)
    situation = rng.choice(SITUATIONS).format(product=product)
    request = rng.choice(REQUESTS).format(product=product)
    message = f"{introduction} {situation}, and {rng.choice(problem.complaints)}. {request}"
    return Case(name, product, problem, message)


def draw_other_topic(case: Case, rng: random.Random) -> Case:
    """Return ``case`` with another product, another problem, or both: what an inattentive reader answers."""
    changes = rng.choice(("product", "problem", "both", "both"))
    product, problem = case.product, case.problem
    if changes != "problem":
        product = rng.choice([other for other in PRODUCTS if other != case.product])
    if changes != "product":
        problem = rng.choice([other for other in PROBLEMS if other != case.problem])
    return dataclasses.replace(case, product=product, problem=problem)


def topic_words(text: str) -> set[str]:
    """Return the topic words (products and problems) that ``text`` uses."""
    return set(re.findall(r"[a-z]+", text.lower())) & set(TOPIC_WORDS)
