"""What chapter ``loading`` asks before it shows."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS = [
    Prediction(
        name="when_code_runs",
        question="With trust_remote_code=True: when does the line of Chen's folder run?",
        choices={
            "when the model writes its first text": "Much earlier. No model exists yet when it runs.",
            "when the weights are read": "Earlier still: this folder has no weights at all.",
            "when the config is read": "The config names a class of the Python file. To get the class, Python imports "
            "the file, and importing a file runs it.",
        },
        right="when the config is read",
        evidence="A line from Chen's folder",
    ),
    Prediction(
        name="typed_eos",
        question="Bo types <|im_end|> into the prompt box. What does the tokenizer make of these ten characters?",
        choices={
            "seven tokens, as for any text": "It could: the next cell shows how. But by default it looks for the names "
            "of special tokens first, wherever the text comes from.",
            "one token: the end of a text": "It cannot know who wrote them. Ten typed characters become the very token "
            "that ends a message.",
            "an error": "No, though an error would be safer.",
        },
        right="one token: the end of a text",
        evidence="typed: [2]",
    ),
    Prediction(
        name="taken_for_padding",
        question="The padding token is token 2 here. A program takes every 2 for padding. How many real tokens does "
        "it lose of two texts, a chat of two messages and “Hello”?",
        choices={
            "none": "The padding token is also the end of a message here, and the first text has two messages.",
            "2": "The chat template ends each of two messages with token 2: real tokens that look like padding.",
            "all of the second text": "The second text has no token 2 of its own. The first one does.",
        },
        right="2",
        evidence="real tokens taken for padding: 2",
    ),
    Prediction(
        name="right_side",
        question="Padding on the right, three prompts of 5, 8 and 9 tokens. How many texts are the same as with "
        "padding on the left?",
        choices={
            "all 3": "The mask hides padding, that is true. But the next token is asked for behind the last column, "
            "and there stands padding.",
            "1": "The longest prompt has no padding. For the others the model is asked what follows a padding token.",
            "none": "The longest prompt has no padding at all, on either side.",
        },
        right="1",
        evidence="the same on both sides: 1 of 3",
    ),
    Prediction(
        name="who_notices",
        question="Padding on the left: the first prompt now begins 4 columns further to the right. Which model gives "
        "other logits than for the prompt alone?",
        choices={
            "both": "One of them does not notice. With rotary positions only distances count, and those are the same.",
            "the one with rotary positions": "Rotary positions turn pairs of numbers, and only the difference of two "
            "turns counts. Moving all tokens together changes no difference.",
            "the one with learned positions": "Its table has a row for each place, and now the first token gets row 4.",
            "neither": "The mask hides the padding, but a model with a table of positions is told other places.",
        },
        right="the one with learned positions",
        evidence="learned: logits off by 6",
    ),
    Prediction(
        name="share_of_tokens",
        question="One prompt of 2,000 tokens and 31 short letters, padded to one rectangle. What share of its cells "
        "are tokens?",
        choices={
            "about half": "The long prompt fills its own row only. The 31 other rows are as long, and nearly empty.",
            "about a fifth": "Less: 31 of 32 rows are filled to about one hundredth.",
            "less than a twentieth": "One full row of 32, and a little in each of the others.",
        },
        right="less than a twentieth",
        evidence="4 % of 64,000 cells",
    ),
]
