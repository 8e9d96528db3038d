"""The predictions of chapter 00."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS = [
    Prediction(
        name="after_the_capital",
        question='The model gets the text "The capital of France is" and may add 12 tokens. What comes?',
        choices={
            "Paris, and nothing more": (
                "The city is right. But nobody asked a question: the model continues a text, and goes on until it is "
                "stopped."
            ),
            "Paris, and then something more": (
                "Yes: it continues the text, and stops only because the 12 tokens are used up."
            ),
            "a question back": "The model was not asked anything. It continues the text that it got.",
        },
        right="Paris, and then something more",
        evidence="Paris.",
    ),
    Prediction(
        name="chinese_tokens",
        question="The model learned mostly from English texts. How many tokens does it need for 8 Chinese characters?",
        choices={
            "fewer than 8": "Words that are frequent in training get one token. For this model they are English.",
            "8": "A frequent character has a token of its own. Here only 是, 法 and 的 are frequent enough.",
            "more than 8": "Yes: a rare character is written with several tokens, each a part of its bytes.",
        },
        right="more than 8",
        evidence="15 tokens",
    ),
    Prediction(
        name="asked_as_in_training",
        question=(
            'Now the model gets "What is the capital of France?" as questions looked in its training, and may add 12 '
            "tokens again. What comes?"
        ),
        choices={
            "the answer, and then more text": (
                "So it was with a text that it continued. In training an answer had an end, so here the end is likely."
            ),
            "the answer, and nothing more": "Yes: in training an answer had an end, and the model has learned it.",
            "more questions": "In training an answer followed such a question, so an answer is likeliest here too.",
        },
        right="the answer, and nothing more",
        evidence="ended because of: stop",
    ),
]
