"""Known schemas, and how each is read. A source is read as the first one whose columns most of its rows have."""

from __future__ import annotations

from tasks.pairs.forms.feedback import FEEDBACK
from tasks.pairs.forms.form import Form
from tasks.pairs.forms.label_studio import LABEL_STUDIO
from tasks.pairs.forms.published_sets import PUBLISHED
from tasks.pairs.forms.ranked import Ranked
from tasks.pairs.forms.training_files import TRAINING_FILES
from tasks.pairs.forms.votes import TEXTS, Votes, numbered

# names that say which reply is the better one, whatever the data set
_NAMED_REPLIES = (
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
    ("preferred_response", "rejected_response"),
    ("preferred_response", "non_preferred_response"),
    ("preferred_response", "dispreferred_response"),
    ("preferred", "dispreferred"),
    ("preferred", "rejected"),
    ("accepted", "rejected"),
    ("winning_response", "losing_response"),
    ("better_response", "worse_response"),
    ("response_j", "response_k"),
    ("pos_resp", "neg_resp"),
    ("response", "rejected_response"),
)

FILES = (
    Form(
        name="openai",
        about="OpenAI's, Together's and Fireworks' preference file: preferred_output over non_preferred_output",
        needs=("input.messages", "preferred_output", "non_preferred_output"),
        paths={
            "prompt": "input.messages",
            "tools": "input.tools",
            "chosen": "preferred_output",
            "rejected": "non_preferred_output",
        },
        beside=("input.parallel_tool_calls",),
    ),
    Form(
        name="magpie",
        about="chosen over rejected; the settings of generation and the scores beside them are not read",
        needs=("chosen", "rejected", "gen_input_configs"),
        beside=("gen_input_configs",),
    ),
)

VOTES = (
    Votes(
        name="helpsteer3",
        about="overall_preference: below 0 response1 is better, above 0 response2; 0 is a tie",
        needs=("context", "response1", "response2", "overall_preference"),
        paths={"prompt": "context"},
        beside=("individual_preference",),
        first="response1",
        second="response2",
        winner=("overall_preference",),
        is_signed=True,
    ),
    Votes(
        name="helpsteer2-preference",
        about="preference_strength: below 0 response_1 is better, above 0 response_2; 0 is a tie",
        needs=("prompt", "response_1", "response_2", "preference_strength"),
        beside=(
            "preference_statement",
            "preference_elaboration",
            "three_most_similar_preferences",
            "all_preferences_unprocessed",
        ),
        first="response_1",
        second="response_2",
        winner=("preference_strength",),
        is_signed=True,
    ),
    Votes(
        name="pku-saferlhf",
        about="better_response_id: 0 is response_0, 1 is response_1",
        needs=("response_0", "response_1", "better_response_id"),
        beside=("safer_response_id",),
        first="response_0",
        second="response_1",
        winner=("better_response_id",),
        values=numbered(0, 1),
    ),
    Votes(
        name="pandalm",
        about="annotator1 to annotator3: 1 is response1, 2 is response2, 0 a tie; the majority counts",
        needs=("response1", "response2", "annotator1"),
        first="response1",
        second="response2",
        winner=("annotator1", "annotator2", "annotator3"),
        values=numbered(1, 2, 0),
    ),
    Votes(
        name="arena",
        about="winner names the model of conversation_a or of conversation_b",
        needs=("conversation_a", "conversation_b", "winner"),
        beside=("full_conversation",),
        first="conversation_a",
        second="conversation_b",
        winner=("winner",),
        values=TEXTS,
    ),
    Votes(
        name="llmbar",
        about="label: 1 is output_1, 2 is output_2",
        needs=("output_1", "output_2", "label"),
        first="output_1",
        second="output_2",
        winner=("label",),
        values=numbered(1, 2),
    ),
    Votes(
        name="alpacafarm",
        about="preference: 1 is output_1, 2 is output_2, 1.5 a tie",
        needs=("output_1", "output_2", "preference"),
        first="output_1",
        second="output_2",
        winner=("preference",),
        values=numbered(1, 2, 1.5),
    ),
    Votes(
        name="shp",
        about="labels: 1 is human_ref_A, 0 is human_ref_B",
        needs=("history", "human_ref_A", "human_ref_B", "labels"),
        paths={"prompt": "history"},
        first="human_ref_A",
        second="human_ref_B",
        winner=("labels",),
        values=numbered(1, 0),
    ),
    Votes(
        name="webgpt",
        about="the higher of score_0 and score_1 names answer_0 or answer_1; equal ones are a tie",
        needs=("question.full_text", "answer_0", "answer_1", "score_0", "score_1"),
        paths={"prompt": "question.full_text"},
        beside=("quotes_0", "quotes_1", "tokens_0", "tokens_1"),  # what a writer searched, and the answers' tokens
        first="answer_0",
        second="answer_1",
        scores=("score_0", "score_1"),
    ),
    Votes(
        name="summarize-from-feedback",
        about="choice is the place, from 0, of the better one of two summaries of info.post",
        needs=("info", "summaries.0.text", "summaries.1.text", "choice"),
        paths={"prompt": ("info.post", "info.article")},
        first="summaries.0.text",
        second="summaries.1.text",
        winner=("choice",),
        values=numbered(0, 1),
    ),
    Votes(
        name="argilla",
        about="responses.preference names fields.response1 or fields.response2; the majority counts",
        needs=("fields.response1", "fields.response2", "responses.preference"),
        paths={"prompt": ("fields.prompt", "fields.instruction"), "system": "fields.system"},
        first="fields.response1",
        second="fields.response2",
        winner=("responses.preference.*",),
        values=TEXTS | numbered("response1", "response2") | numbered(1, 2),
    ),
)

RANKED = (
    Ranked(
        name="nectar",
        about="answers by rank, the lowest being the best",
        needs=("answers.0.answer", "answers.0.rank"),
        answers="answers",
        text="answer",
        rank="rank",
    ),
    Ranked(
        name="ultrafeedback",
        about="completions by overall_score; custom_system_prompt is the system prompt",
        needs=("instruction", "completions.0.response", "completions.0.overall_score"),
        paths={"prompt": "instruction"},
        beside=("correct_answers", "incorrect_answers"),
        answers="completions",
        text="response",
        score="overall_score",
        system="custom_system_prompt",
    ),
    Ranked(
        name="distilabel",
        about="generations by ratings, a list beside them",
        needs=("generations", "ratings"),
        answers="generations",
        scores="ratings",
    ),
    Ranked(
        name="distilabel-rating",
        about="generations by rating, a list beside them",
        needs=("generations", "rating"),
        answers="generations",
        scores="rating",
    ),
    Ranked(
        name="stack-exchange-preferences",
        about="answers by pm_score",
        needs=("question", "answers.0.text", "answers.0.pm_score"),
        answers="answers",
        text="text",
        score="pm_score",
    ),
    Ranked(
        name="nemo-rl",
        about="completions by rank, the lowest being the best",
        needs=("context", "completions.0.rank", "completions.0.completion"),
        paths={"prompt": "context"},
        answers="completions",
        text="completion",
        rank="rank",
    ),
)

REPLIES = tuple(
    Form(
        name=f"{chosen}/{rejected}",
        about=f"`{chosen}` over `{rejected}`",
        needs=(chosen, rejected),
        paths={"chosen": chosen, "rejected": rejected},
    )
    for chosen, rejected in _NAMED_REPLIES
)

KNOWN: tuple[Form, ...] = (*FILES, *TRAINING_FILES, LABEL_STUDIO, *PUBLISHED, *VOTES, *RANKED, *FEEDBACK, *REPLIES)
