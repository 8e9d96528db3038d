"""What chapter ``data_flow`` asks before it shows."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS = [
    Prediction(
        name="rows_of_logits",
        question="5 token ids go into the model. What shape do the logits have that come out?",
        choices={
            "(5, 49152)": "The model could answer at all five positions. But for four of them we know what follows: "
            "the prompt. The runner leaves these rows out.",
            "(1, 49152)": "Yes: one row, for the last position. What follows there is the only thing we do not know.",
            "(5,)": "That would be one token per position. Choosing a token is the sampler's work; the model gives a "
            "number for every token of the vocabulary.",
        },
        right="(1, 49152)",
        evidence="logits: (1, 49152)",
    ),
    Prediction(
        name="second_step",
        question="How many tokens go through the model in the second step?",
        choices={
            "6: the prompt and the new token": "So it would be without a cache. The keys and values of the prompt are "
            "in the KV blocks already.",
            "5: as many as before": "The prompt was read once, and this is enough: its keys and values are kept.",
            "1: the new token": "Yes: everything before it is in the KV blocks.",
        },
        right="1: the new token",
        evidence="[5, 1, 1, 1, 1]",
    ),
    Prediction(
        name="sixteen_sequences",
        question="How much longer does a step take for 16 sequences than for one?",
        choices={
            "16 times": "That would be so if each token had to pay for itself. But something large is paid once per "
            "step, whoever shares it.",
            "less than 8 times": "Yes, and mostly 2 to 4 times: much of the time goes into something that all tokens "
            "of the step share.",
            "exactly as long": "With 2 or 4 sequences this is nearly so. With 16 the sums themselves begin to take "
            "time; on a GPU they would not yet.",
        },
        right="less than 8 times",
        evidence="less than 8 times as long: True",
    ),
    Prediction(
        name="without_cache",
        question="And without a cache: about how many times as many tokens go through the model?",
        choices={
            "2 times": "Each step reads all tokens so far, 33 to 56 of them, and there are 24 steps.",
            "19 times": "Yes: 33 + 34 + ... + 56 = 1068 tokens, where the cache needs 56.",
            "24 times": "There are 24 steps, but the first ones read a text that is still short.",
        },
        right="19 times",
        evidence="19.1 times as many",
    ),
    Prediction(
        name="anna_waits",
        question="Anna comes at step 5. With static batching, how many steps does she wait before her first one?",
        choices={
            "7": "Bo's batch ends after 12 steps. But Dana, Emil and Fay came before Anna, and they take all 3 seats "
            "of the next batch.",
            "13": "Yes: 7 steps until Bo's batch ends, and 6 more for the batch of Dana, Emil and Fay.",
            "0": "Two seats are empty when she comes. But a static batch lets nobody in after it has started.",
        },
        right="13",
        evidence="Anna waits 13 steps",
    ),
    Prediction(
        name="half_a_lantern",
        question="What should Anna see after the first of the three tokens?",
        choices={
            "nothing new": "Yes: half a character cannot be shown without being taken back later.",
            "a mark for half a character": "This is what decoding the token alone gives. The mark would have to be "
            "taken back later.",
            "the lantern": "Two of its four bytes are still missing. Many characters begin with the same two bytes.",
        },
        right="nothing new",
        evidence="token 10813: decoded alone '�', shown ''",
    ),
    Prediction(
        name="same_bits",
        question="Are all logits the same, to the last bit, alone and in a crowd?",
        choices={
            "yes, with both": "The formulas are the same in both, and no token looks at another request. But the order "
            "of the sums is not always the same.",
            "with the engine's own code, not with Hugging Face's": "Yes: the engine's loops add in one order only. The "
            "library under Hugging Face's code chooses its order by the number of rows.",
            "with Hugging Face's code, not with the engine's own": "It is the other way round: the engine's own loops "
            "were written so that the crowd changes nothing.",
        },
        right="with the engine's own code, not with Hugging Face's",
        evidence="transformers same bits: False",
    ),
]
