"""For Sphinx: a name in a text, ``SamplingParams`` or ``folovllm/llm.py``, leads to what it names."""

from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode


class LinkNames(SphinxPostTransform):
    """Turn names in monospace into links, where exactly one thing has that name: a chapter, a module, a definition."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        """Go through one document."""
        here = self.env.docname
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, nodes.reference | nodes.title):
                continue
            docname, anchor = self._place_of(literal.astext().removesuffix("()"))
            if docname and docname != here:
                literal.replace_self(make_refnode(self.app.builder, here, docname, anchor, literal.deepcopy()))

    def _place_of(self, name: str) -> tuple[str, str]:
        """Return the document and the anchor of what has a name; empty texts where nothing or too much has it."""
        module = str(PurePosixPath(name).with_suffix("")).replace("/", ".") if name.endswith(".py") else name
        for docname in (name, f"api/{module}"):
            if docname in self.env.found_docs:
                return docname, ""
        objects = self.env.get_domain("py").objects
        found = [place for full, place in objects.items() if full == name or full.endswith(f".{name}")]
        own = [place for place in found if place.objtype in ("class", "function", "exception", "method", "property")]
        return (own[0].docname, own[0].node_id) if len(own) == 1 else ("", "")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_post_transform(LinkNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
