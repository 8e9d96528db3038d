"""What chapter ``sequences`` asks before it shows."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS = [
    Prediction(
        name="seed_of_text_1",
        question="Bo asks again with seed=3 and n=1; all else is as before. Which text does he get?",
        choices={
            "Text 0 again": "The first text has the request's own seed, and that was 2.",
            "Text 1 again": "Yes: text number i draws with seed + i, and 2 + 1 is 3.",
            "A new text": "A new seed mostly means a new text, but this seed is not new: text 1 drew with 2 + 1.",
        },
        right="Text 1 again",
        evidence="same as text 1: True",
    ),
    Prediction(
        name="notes_fork",
        question="The engine forks by the notes' rule, and Bo asks for n=3 with seed=2. What does he get?",
        choices={
            "Three different texts": "The lists of tokens are separate. But what decides which token is drawn?",
            "One text three times": "Yes: the seed is in the parameters they share, so all draw the same numbers.",
            "An error": "Python sees nothing wrong. That makes the mistake hard to find.",
        },
        right="One text three times",
        evidence="different texts: 1",
    ),
    Prediction(
        name="first_copies",
        question="In step 1 each of the three writes a word into block 1. How often is it copied before that?",
        choices={
            "Never": "Then three texts would write to one place, and only what the last one wrote would be left.",
            "2 times": "Yes: two get a copy. Then the third holds the block alone and writes into it.",
            "3 times": "Two copies are enough: when two have a copy of their own, the third holds the block alone.",
        },
        right="2 times",
        evidence="blocks copied: 2",
    ),
    Prediction(
        name="cost_of_best_of",
        question="Bo asks for n=3, best_of=5, with 8 tokens per text. How many tokens does Lantern generate?",
        choices={
            "24": "That is what Bo sees: 3 texts of 8. The other two are generated too, before they lose.",
            "40": "Yes: all five texts are generated to their end; only then can they be ranked.",
            "64": "That is 8 texts. But best_of says how many are made, and n how many of them are shown.",
        },
        right="40",
        evidence="tokens generated: 40",
    ),
    Prediction(
        name="who_gives_way",
        question="One block is free. Anna and Chen need a new one each, Bo needs none. Who gives way?",
        choices={
            "Anna, who came first": "Then new readers could stop Anna for ever. Whoever came first goes on.",
            "Bo, who holds most": "It would free the most. But the rule asks who came last, not who is large.",
            "Chen, who came last": "Yes: the latest gives way, so whoever came first is always served in the end.",
        },
        right="Chen, who came last",
        evidence="step 7: Chen",
    ),
    Prediction(
        name="texts_after_the_move",
        question="Chen's text was computed again, Bo's blocks were moved away and back. Whose text has changed?",
        choices={
            "Nobody's": "Yes: same tokens, same keys and values, and token i always meets random number i.",
            "Chen's": "His tokens are kept; only keys and values are computed again, and they come out the same.",
            "Bo's": "A copy is exact. His tables have new block numbers, and the same content.",
            "Both": "Tokens and random numbers are never thrown away, so nothing is drawn a second time.",
        },
        right="Nobody's",
        evidence="same texts: True",
    ),
    Prediction(
        name="steps_without_host",
        question="With host memory this evening takes 17 steps. Without it, Bo's family waits too. How many steps?",
        choices={
            "16": "Yes: nobody is swapped, so nobody has to wait until a swapped one is back.",
            "17": "The same tokens are drawn, but in other steps: nobody is swapped, so Chen comes back earlier.",
            "More than 17": "More tokens are computed, but one step takes many of them at once.",
        },
        right="16",
        evidence="no host   16 steps",
    ),
    Prediction(
        name="greedy_or_beam",
        question="Greedy takes the likeliest token in every step. Whose text of 7 tokens is the likelier one?",
        choices={
            "Greedy's": "Each token is the likeliest at its place, but it may lead to a place with bad choices.",
            "The best beam's": "Yes: it takes a less likely third token, and all that follows it is likelier.",
            "It is one text": "Often true for short texts. Here greedy's third token leads to another text.",
        },
        right="The best beam's",
        evidence="greedy  -8.02",
    ),
]
