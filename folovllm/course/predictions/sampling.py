"""What chapter ``sampling`` asks before it shows."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS: list[Prediction] = [
    Prediction(
        name="first_draw",
        question="The first random number of seed 7 is 0.324. Which token on the strip above will the engine draw?",
        choices={
            "␣the": "It is the likeliest, but the number decides: the piece of ␣the ends near 0.24.",
            "␣that": "Yes: 0.324 lies in the piece that goes from about 0.25 to 0.43.",
            "nobody can know": "The number is known, and so is the strip: then the token is certain.",
        },
        right="␣that",
        evidence="' that'",
    ),
    Prediction(
        name="hot_tail",
        question=(
            "At temperature 1 the grey tail of all other tokens owns 49 % of the strip. How much at temperature 1.5?"
        ),
        choices={
            "49 %": "The order of the tokens stays the same, but not their lengths.",
            "about 60 %": "Too little. Nearly every grey token gains a little, and there are 49,149 of them.",
            "more than 80 %": "Yes. Unlikely tokens gain most, and there are very many of them.",
        },
        right="more than 80 %",
        evidence="temperature 1.5: ␣the 5%, ␣that 5%, ␣it 3%, all others 86%",
    ),
    Prediction(
        name="suspect",
        question=("The likeliest token has 0.773. How many tokens does the rule of the notes keep at p = 0.7?"),
        choices={
            "0": "Yes. The first sum is 0.773 already, and 0.773 <= 0.7 is false.",
            "1": "That is what the sentence says, and what the engine does. Read the rule in the code once more.",
            "2": "The sum only grows: if the first token is refused, so is the second.",
        },
        right="0",
        evidence="by the suspect: 0",
    ),
    Prediction(
        name="filter_order",
        question=(
            "Tokens of 0.4, 0.2, 0.15, 0.1, 0.08 and 0.07; min_p = 0.3, top_p = 0.7. Which order keeps more of them?"
        ),
        choices={
            "top-p first": "Yes: 3 tokens. Once min-p has shared out what the last three had, 2 tokens reach 0.7.",
            "min-p first": "What min-p drops goes to the others. They grow, and fewer of them are enough for 0.7.",
            "both the same": "It would be so if a filter left the others as they are. But what it drops is shared out.",
        },
        right="top-p first",
        evidence="top_p, then min_p: A 53% B 27% C 20%; min_p, then top_p: A 67% B 33%",
    ),
    Prediction(
        name="penalty_on_code",
        question=(
            "Anna is content. Now Chen's function at temperature 0, with repetition_penalty = 1.2. What comes out?"
        ),
        choices={
            "the same function": "Its names and brackets come more than once, so the penalty meets each of them.",
            "no function": 'Nothing keeps the model from beginning one: "def" was not written before.',
            "a wrong function": "Yes. Code must repeat its names, and the penalty pushes it to use others.",
        },
        right="a wrong function",
        evidence="return x + y * 2",
    ),
    Prediction(
        name="same_seed",
        question="Bo's poem with seed 5: once alone, once beside 7 other requests. Is it the same text?",
        choices={
            "yes": (
                "Yes. Its numbers belong to its seed alone. (On a GPU the last bits of logits may depend on the batch.)"
            ),
            "no, others use up numbers": "Each of them has numbers of its own: nobody takes one from another.",
            "only at temperature 0": "At 0 nothing is drawn. Above 0 the same numbers point to the same places.",
        },
        right="yes",
        evidence="the same text:   True",
    ),
    Prediction(
        name="stop_special",
        question=(
            "This model ends its answers with the special token <|im_end|>. "
            "We give it as a stop string. What ends the text, and what is stop_reason?"
        ),
        choices={
            "the stop string; <|im_end|>": "A stop string is looked for in the text, which has no special tokens.",
            "the end token; None": "Yes. The model's own end token ended it, and no stop string was found.",
            "max_tokens; None": "The end token still ends the text: it is found by its number, not in the text.",
        },
        right="the end token; None",
        evidence="'Yes.' | stop, None",
    ),
]
