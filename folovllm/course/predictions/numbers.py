"""What chapter ``numbers`` asks before it shows."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS = [
    Prediction(
        name="megabytes_in_16_bits",
        question="134,515,008 numbers of 16 bits each: how many MB are the weights?",
        choices={
            "135 MB": "That would be 8 bits per number, one byte.",
            "269 MB": "16 bits are 2 bytes, and 2 x 134.5 million bytes are 269 MB: half of what it was.",
            "538 MB": "That is with 32 bits per number, 4 bytes.",
        },
        right="269 MB",
        evidence="bfloat16   269 MB",
    ),
    Prediction(
        name="stored_257",
        question="257 is 256 + 1. Its mantissa needs 8 bits, and bfloat16 has 7. Which number does bfloat16 store?",
        choices={
            "257": "The last bit of its mantissa would be an eighth one. There is no box for it.",
            "256": "257 lies half-way between 256 and 258. Half-way, the rule takes the one whose last bit is 0.",
            "infinity": "The range is fine: bfloat16 has as many exponent bits as float32. Precision ends here.",
        },
        right="256",
        evidence="bfloat16 0 10000111 0000000 = 256",
    ),
    Prediction(
        name="seventy_thousand",
        question="float16 has fewer exponent bits than bfloat16. What does float16 store for 70,000?",
        choices={
            "70,000": "Its largest number is 65,504.",
            "65,504": "That would be kind, but it is not the rule. What is too large becomes infinite.",
            "infinity": "5 bits of exponent end at 65,504. Whatever is clearly larger becomes infinite.",
        },
        right="infinity",
        evidence="70000: float32 70000, bfloat16 70144, float16 inf",
    ),
    Prediction(
        name="which_is_further",
        question="We compute the logits of three prompts in bfloat16 and in float16. Which are further from float32's?",
        choices={
            "bfloat16": "Nothing overflows in this model, so precision decides: 7 bits of mantissa against 10.",
            "float16": "That happens where numbers overflow. Here the largest are below 24,000; float16 goes up to "
            "65,504.",
            "both the same": "Both have 16 bits, but they spend them in different ways: 7 or 10 bits of mantissa.",
        },
        right="bfloat16",
        evidence="bfloat16 is more than twice as far: True",
    ),
    Prediction(
        name="near_tie",
        question="Eleven tokens after Chen's prompt, the two best logits are 14.584 and 14.579. Near them, the "
        "numbers of bfloat16 are 0.0625 apart. These two are stored in bfloat16: what comes out?",
        choices={
            "the same number twice": "Both are nearest to 14.5625. Stored so, they no longer say which token wins.",
            "two different numbers": "Both lie between 14.53125 and 14.59375, and every number there becomes 14.5625.",
            "infinity": "14 is far from the end of the range.",
        },
        right="the same number twice",
        evidence="␣beautiful: 14.584 becomes 14.5625; ␣ghost: 14.579 becomes 14.5625",
    ),
    Prediction(
        name="old_card",
        question="A Llama model is stored in bfloat16, and the card's capability is 7.5. Which dtype does our engine "
        "take?",
        choices={
            "bfloat16": "It is what is stored, so it would be the first choice. But cards have bfloat16 only from 8.0 "
            "on.",
            "float16": "The card has no bfloat16, and float16 takes as little memory. On a card that has bfloat16, the "
            "model would keep it.",
            "float32": "It would be safe, but it takes twice the memory. On a card, our rule "
            "gives a Llama model 16 bits.",
        },
        right="float16",
        evidence="stored bfloat16 cuda (7, 5) notes float16 ours float16",
    ),
    Prediction(
        name="values_in_a_block",
        question="The layers of our model were once stored with 4 bits per weight. At most how many different values "
        "are in a block of 32 weights?",
        choices={
            "4": "4 bits are not 4 values. Each bit doubles how many there can be.",
            "16": "4 bits can tell 2 x 2 x 2 x 2 values apart.",
            "32": "All different would need 5 bits: 2 x 2 x 2 x 2 x 2.",
        },
        right="16",
        evidence="most in any block of this layer: 16",
    ),
    Prediction(
        name="eight_bits_and_the_text",
        question="We store every matrix in Q8_0, 8 bits per weight, and write both texts again. How many stay equal?",
        choices={
            "both": "Nearly. But in one of the texts two tokens are close, and there a small error is enough.",
            "one": "8 bits are close, and the first text stays. In the second, two tokens are close enough to change "
            "places.",
            "none": "8 bits are better than that: a weight is off by about 1/254 of the largest in its block at most.",
        },
        right="one",
        evidence="Q8_0 texts as before: 1 of 2",
    ),
]
