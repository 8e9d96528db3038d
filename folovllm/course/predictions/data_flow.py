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
        name="tokens_in_all",
        question="Prompt: 5 tokens, answer: 5 more. How many tokens go through the model, all steps together?",
        choices={
            "35": "5 + 6 + 7 + 8 + 9: so it would be if each step read the whole text again. But the keys and values "
            "of what was read are in the KV blocks.",
            "10": "Nearly: each token is read once. But is the last new one read at all? Nothing comes after it.",
            "9": "Yes: the 5 of the prompt, then the newest one in each of 4 steps. The last new token is never read.",
        },
        right="9",
        evidence="in all: 9",
    ),
    Prediction(
        name="twice_as_long",
        question="1, 4, 16 or 64 sequences decode. From how many on does a step take twice as long as for one?",
        choices={
            "4": "That would be near if each token had to pay for itself. But something large is paid once per step, "
            "and 4 share it.",
            "16 or 64, it depends on the computer": "Yes: with few tokens a step takes hardly longer. From some number "
            "on, the sums themselves take the time.",
            "never: a step takes as long for 64 as for one": "With 4 this is nearly so. But 64 tokens need 64 times "
            "the sums, and at some number these begin to count.",
        },
        right="16 or 64, it depends on the computer",
        evidence="twice as long with 16 or 64 sequences: True",
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
