"""A prediction: a question, its choices, and what each of them is told."""

from dataclasses import dataclass

from folovllm.language import _, pgettext


@dataclass(frozen=True)
class Prediction:
    """A question asked before an output can be read. Its words are English, and translated where they are shown.

    choices: what may be picked, and what to say to whoever picks it; all plain text.  right: one of them.
    evidence: what the output of the next cell says, in its stored text or in the alt text of its picture; tests look
    for it, so that what is called right is what happens.
    """

    name: str
    question: str
    choices: dict[str, str]
    right: str
    evidence: str

    def __post_init__(self) -> None:
        assert 2 <= len(self.choices) <= 4, f"{self.name}: two to four choices, not {len(self.choices)}"
        assert self.right in self.choices, f"{self.name}: {self.right!r} is no choice"

    @property
    def context(self) -> str:
        """Where its choices stand: "both" and "none" answer other questions in other words."""
        return f"choice of {self.name}"

    def words_of(self, choice: str) -> str:
        """Return a choice as it is shown."""
        return pgettext(self.context, choice)

    def answer_to(self, choice: str) -> str:
        """Return what to say to a choice."""
        return f"{'✔' if choice == self.right else '✘'} {_(self.choices[choice])}"
