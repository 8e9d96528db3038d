"""What chapter 06 asks before it shows."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS = [
    Prediction(
        name="second_choice",
        question=(
            "A small sampler forbids the likeliest token in every step, and takes the second likeliest. How does "
            "'The capital of France is' go on?"
        ),
        choices={
            "' Paris', all the same": "' Paris' is the likeliest token here, so it is forbidden as the first one.",
            "Nearly correct English, by another road": (
                "Yes. The second likeliest token is nearly always a good one too: a model knows many ways to go on."
            ),
            "Letters without sense": (
                "That would need unlikely tokens. The second likeliest of 49,152 is still near the top."
            ),
        },
        right="Nearly correct English, by another road",
        evidence="the largest metropolitan city",
    ),
    Prediction(
        name="unknown_model_type",
        question=(
            "Chen brings a folder. Its config.json says model_type lantern, a word that nobody knows. The tensors have "
            "the names and shapes of a Llama model. What happens when it is loaded?"
        ),
        choices={
            "It is loaded as a Llama model": "Nobody looks at the tensors to choose a class: they are read later.",
            "A general class is used": "Not for an unknown word: a class of model is code for one architecture.",
            "An error": "Yes. The word is looked up in a table, and the table does not know it.",
        },
        right="An error",
        evidence="lantern -> Unrecognized",
    ),
    Prediction(
        name="a_new_status",
        question=(
            "Chen closes his laptop in the middle of an answer. You add the status PAUSED to the enum, one line, and "
            "change nothing else. Which sequences can become PAUSED?"
        ),
        choices={
            "Those that are running": "Who would allow it? The enum is a list of names. No move is written there.",
            "All of them": "An enum alone lets everything happen, but here each move is looked up in a table first.",
            "None": "Yes. The table of moves has no way to it, and no code makes the move. Three places need a change.",
        },
        right="None",
        evidence="moves to paused: none",
    ),
    Prediction(
        name="bytes_of_a_token",
        question=(
            "For each token the engine keeps its id in a Python list, and its keys and values in the cache. How many "
            "times more bytes do the keys and values take?"
        ),
        choices={
            "About 10 times": "Then lists would matter. A token has 2 x 30 x 3 x 64 numbers of 4 bytes in the cache.",
            "About 100 times": "Still too few: the cache holds 11,520 numbers per token, the list one.",
            "More than 1,000 times": "Yes: 46,080 bytes against 36.",
        },
        right="More than 1,000 times",
        evidence="1,280 times",
    ),
    Prediction(
        name="a_field_alone",
        question=(
            "A subclass of SamplingParams gets a new field epsilon. Three requests with the same seed have epsilon 0, "
            "0.1 and 0.5. How many different texts come out?"
        ),
        choices={
            "3": "Each would need somebody who reads the field and does something.",
            "2": "Not even 0 and 0.5 differ: the field travels through the engine, and nobody reads it.",
            "1": "Yes. A parameter alone is no strategy.",
        },
        right="1",
        evidence="different texts: 1",
    ),
    Prediction(
        name="refused_by_to_vllm",
        question="Three wishes that vLLM does not have in our form. Which one does to_vllm() refuse with an error?",
        choices={
            "swap_space=8": "It only changes how memory is found. You get a warning, and nothing else changes.",
            "min_p=0.3 with top_p=0.7": (
                "The order of the filters is another one there, so texts can change. But there is only a warning."
            ),
            "best_of=5 with n=2": (
                "Yes: vLLM has no argument that means this, and without it you would get other texts than you asked "
                "for. So to_vllm() stops, and says what to write instead."
            ),
        },
        right="best_of=5 with n=2",
        evidence="refused    n=2, best_of=5",
    ),
    Prediction(
        name="greedy_on_both",
        question=(
            "Eight questions, temperature 0, the same weights in float32, up to 32 tokens: on our engine and on vLLM. "
            "How many of the eight texts are the same?"
        ),
        choices={
            "All or nearly all": (
                "Yes. Temperature 0 leaves nothing to chance. Rounding decides only where two tokens are nearly equal."
            ),
            "About half": (
                "With bfloat16 perhaps: in chapter 04b it kept half of the texts. In float32 two tokens are seldom so "
                "close that rounding decides."
            ),
            "None": "That is what happens when texts are drawn: the random numbers are others there.",
        },
        right="All or nearly all",
        evidence="greedy: 8 of 8",
    ),
]
