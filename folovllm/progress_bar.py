"""The bar that shows how far a batch has come."""

from tqdm.auto import tqdm

from folovllm.outputs import RequestOutput


class ProgressBar:
    """vLLM's bar: "Processed prompts", with input and output tokens a second."""

    def __init__(self, total: int, disable: bool) -> None:
        self._bar = tqdm(total=total, desc="Processed prompts", dynamic_ncols=True, disable=disable)
        self._num_input = self._num_output = 0

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def count(self, output: RequestOutput) -> None:
        """Count a finished request."""
        self._num_input += len(output.prompt_token_ids)
        self._num_output += sum(len(completion.token_ids) for completion in output.outputs)
        seconds = self._bar.format_dict["elapsed"] or 1e-9
        speed = f"{self._num_input / seconds:.2f} toks/s, output: {self._num_output / seconds:.2f} toks/s"
        self._bar.set_postfix_str(f"est. speed input: {speed}", refresh=False)
        self._bar.update(1)
