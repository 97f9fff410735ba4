"""How a support desk may answer a case: well, or with one or two faults.

A good reply is warm, takes the problem on itself, names product and problem, promises the step that
fits, and stops after two or three sentences. The faults are the ways in which a reply misses that:

    curt        cold and blaming, no help
    off_topic   friendly, but about another product or problem
    rambling    does not stop when it has answered, and repeats itself
    vague       polite, names nothing and promises nothing
"""

from __future__ import annotations

import random

from tasks.demo.world.world import Case, draw_other_topic

OPENINGS = (
    "I am so sorry about {trouble}, {name}.",
    "Thank you for telling us about {trouble}, {name}.",
    "I understand how annoying {trouble} must be, {name}.",
    "Oh dear, {name}, I am truly sorry about {trouble}.",
    "You are right to be upset about {trouble}, {name}.",
)
"""First sentences of a good reply; each holds one of `EMPATHY`."""

EMPATHY = ("so sorry", "thank you for telling us", "i understand how", "truly sorry", "you are right to be upset")

PROMISES = (
    "This is on us, and {step}.",
    "That is our mistake, so {step}.",
    "Leave it to me: {step}.",
    "I will take care of it: {step}.",
)
"""Second sentences of a good reply; each holds one of `OWNERSHIP`."""

OWNERSHIP = ("this is on us", "our mistake", "leave it to me", "take care of it")

CLOSINGS = (
    "You do not need to do anything else.",
    "It will not cost you a thing.",
    "I will stay with it until you are happy.",
    "I will write to you as soon as it is done.",
)
"""Third sentences, which half of the good replies have."""

BLAME = (
    "Nobody else complains about {trouble}, {name}.",
    "Your {product} is fine, {name}.",
    "You must have broken the {product} yourself, {name}.",
    "Stop going on about {trouble}, {name}.",
    "So what, {name}, it is only a {product}.",
)
DISMISSALS = (
    "That is not our problem.",
    "Read the manual next time.",
    "You should have been more careful.",
    "Do not write to us again.",
    "It is your own fault.",
)
CURT_PHRASES = (
    "nobody else", "is fine", "you must have", "stop going on", "so what",
    "not our problem", "read the manual", "you should have", "do not write", "your own fault",
)  # fmt: skip
"""What marks a curt reply: every `BLAME` and every `DISMISSALS` sentence holds one."""

VAGUE_OPENINGS = (
    "Thank you for your message.",
    "We have received what you wrote.",
    "Dear customer, we hear you.",
    "Your case has a number now.",
)
VAGUE_BODIES = (
    "Such things happen from time to time.",
    "Somebody may look at it at some point.",
    "There are many possible reasons for this.",
    "It is hard to say more at the moment.",
)
VAGUE_ENDINGS = ("Please wait and see.", "We hope that this helps.", "Things often get better with time.")

DIGRESSIONS = (
    "Our shop is on the main street next to the bakery.",
    "As I said, we have a small team here.",
    "By the way, the summer catalogue is out.",
    "My colleague once had something like this too.",
    "Some people like tea and others like coffee.",
    "Let me also say that we value every customer.",
    "Anyway, there is a lot more to say about it.",
    "It has been raining here for days.",
)
"""What a rambling reply goes on with."""

GOOD = "good"
FAULTS = (
    "curt",
    "off_topic",
    "rambling",
    "vague",
    "curt+off_topic",
    "curt+rambling",
    "off_topic+rambling",
    "vague+rambling",
)
"""The styles of the bad replies; ``a+b`` has both faults."""

FAULT_WEIGHTS = (22, 18, 22, 14, 6, 6, 6, 6)
"""How often each of `FAULTS` comes, in percent."""


def draw_fault(rng: random.Random) -> str:
    """Draw the style of a bad reply."""
    return rng.choices(FAULTS, FAULT_WEIGHTS)[0]


def draw_reply(case: Case, style: str, rng: random.Random) -> str:
    """Return a reply to ``case`` in ``style``, which is `GOOD` or one of `FAULTS`."""
    faults = style.split("+")
    about = draw_other_topic(case, rng) if "off_topic" in faults else case
    if "curt" in faults:
        sentences = _curt(about, rng)
    elif "vague" in faults:
        sentences = [rng.choice(VAGUE_OPENINGS), rng.choice(VAGUE_BODIES), rng.choice(VAGUE_ENDINGS)]
    else:
        sentences = _good(about, rng)
    if "rambling" in faults:
        sentences += _digress(rng)
    return " ".join(sentences)


def _good(case: Case, rng: random.Random) -> list[str]:
    """Two or three sentences: empathy that names the topic, ownership with the step, perhaps a closing."""
    sentences = [_fill(rng.choice(OPENINGS), case, rng), _fill(rng.choice(PROMISES), case, rng)]
    if rng.random() < 0.5:
        sentences.append(rng.choice(CLOSINGS))
    return sentences


def _curt(case: Case, rng: random.Random) -> list[str]:
    """Blame, and one or two dismissals."""
    return [_fill(rng.choice(BLAME), case, rng), *rng.sample(DISMISSALS, rng.choice((1, 2)))]


def _digress(rng: random.Random) -> list[str]:
    """Four digressions, of which one or two are said twice."""
    first, second, third = rng.sample(DIGRESSIONS, 3)
    return [first, second, first, rng.choice((second, third))]


def _fill(template: str, case: Case, rng: random.Random) -> str:
    """Put the case into a sentence; the step is drawn only where the sentence has one."""
    trouble = case.problem.trouble.format(product=case.product)
    step = rng.choice(case.problem.steps) if "{step}" in template else ""
    return template.format(name=case.name, product=case.product, trouble=trouble, step=step)
