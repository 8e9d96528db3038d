"""The predictions of chapter 01."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS = [
    Prediction(
        name="steps_by_seats",
        question=(
            "Eight prompts, an answer of 12 tokens for each. One seat took 96 steps. How many steps do eight seats "
            "take?"
        ),
        choices={
            "96": "The work is the same, but a step can carry a token of each of the eight answers.",
            "12": "Yes: in each step every answer grows by one token, and all have 12.",
            "8": "Eight is the number of readers. Each answer still grows by one token per step, and needs 12 of them.",
        },
        right="12",
        evidence="12 steps with eight seats",
    ),
    Prediction(
        name="step_of_eight",
        question=(
            "One step adds a token to each of eight texts. How long does it take, compared with a step that adds a "
            "token to one text?"
        ),
        choices={
            "eight times as long": (
                "It computes eight times as much, but most of a small step is spent on fetching the model from "
                "memory, and that happens once per step."
            ),
            "somewhat longer, far less than eight times": (
                "Yes: the model is fetched from memory once per step, for one text or for eight."
            ),
            "shorter": "A step for eight texts does everything that a step for one does, and more.",
        },
        right="somewhat longer, far less than eight times",
        evidence="less than 4.0 times as long as 1: True",
    ),
    Prediction(
        name="tokens_computed",
        question=(
            "Each of the eight prompts has 6 tokens, each answer 12: together 8 x 18 = 144. How many of these tokens "
            "go through the model?"
        ),
        choices={
            "144": "Nearly: think of the very last token of an answer. Does the model have to read it?",
            "136": "Yes: all but the last token of each answer, which is shown and never read.",
            "96": "These are the tokens that are written. The prompts must be read too.",
        },
        right="136",
        evidence="136 tokens went through the model",
    ),
    Prediction(
        name="long_prompt",
        question=(
            "Anna has 3 of her 12 tokens. Now Bo's prompt of 241 tokens arrives, and a step may carry 2048 tokens. "
            "What does she notice?"
        ),
        choices={
            "Bo waits until her answer is complete": "There are seats left, so his prompt joins the very next step.",
            "she waits for one long step": (
                "Yes: one step of 242 tokens reads all of Bo's prompt, and her next token comes at its end."
            ),
            "her tokens come as quickly as before": (
                "She is in every step, but a step is over when all of its tokens are computed, Bo's 241 too."
            ),
        },
        right="she waits for one long step",
        evidence="242",
    ),
    Prediction(
        name="second_time",
        question=(
            "All eight prompts of 40 tokens begin with the same instruction of 36 tokens. They are asked a second "
            "time, with sharing. How many tokens go through the model now? Without sharing it was 408."
        ),
        choices={
            "88": (
                "That would be the answers alone. At least the last token of a prompt must be read, because the first "
                "new token comes from it."
            ),
            "152": "Yes: of each prompt two full blocks of 16 are found, the other 8 tokens are read again.",
            "408": "That is without sharing. The blocks of the first time are still there, and are found.",
        },
        right="152",
        evidence="second time: 152 tokens",
    ),
    Prediction(
        name="naive_dataclass",
        question='Which of the two lines fails: Naive(block_size="sixteen") or Naive(dtype="flaot16")?',
        choices={
            "the first": "An int is asked for, but nobody looks: the text is stored.",
            "the second": "Literal lists what is allowed, but nobody looks: the misspelt text is stored.",
            "both": "It would be good, but Python checks neither hint when the program runs.",
            "neither": "Yes: both hints are only notes. Python stores what it gets.",
        },
        right="neither",
        evidence="Naive(block_size='sixteen'",
    ),
    Prediction(
        name="notes_check",
        question='suspect gets 16, 0, 16.5, True and "16". Which of the wrong ones does it accept?',
        choices={
            "none": "It only asks whether the value is <= 0, and 16.5 is not.",
            "16.5 and True": "Yes: 16.5 <= 0 is false, and so is True <= 0, because True counts as 1.",
            'the text "16"': "A text cannot be compared with 0: that is a TypeError, which says nothing about sizes.",
        },
        right="16.5 and True",
        evidence="16.5  accepted",
    ),
]
