"""Small changes to a piece of code, each of which a good check should notice."""

import ast
import copy
from collections.abc import Iterator

_COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}
_OPERATORS: dict[type[ast.operator], list[type[ast.operator]]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Add, ast.FloorDiv],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult, ast.Div],
    ast.Mod: [ast.FloorDiv],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
}
_TURN_ROUND = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod)
_NAMES = {"max": "min", "min": "max", "all": "any", "any": "all", "amax": "amin", "sorted": "list"}


def mutants_of(code: str) -> Iterator[tuple[str, str]]:
    """Return further pieces of code, each with one place changed, and the line that changed.

    Changed are comparisons, operators, numbers, True and False, conditions, the order of operands, names of
    opposites, and statements, which are left out.
    """
    tree = ast.parse(code)
    original = ast.unparse(tree).splitlines()
    seen = {"\n".join(original)}
    for place, node in enumerate(ast.walk(tree)):
        for replacement in _replacements(node):
            text = ast.unparse(_replaced(tree, place, replacement))
            if text not in seen:
                seen.add(text)
                lines = text.splitlines()
                changed = (line for line, old in zip(lines, original, strict=False) if line != old)
                yield text, next(changed, lines[-1]).strip()


def _replaced(tree: ast.Module, place: int, replacement: ast.AST) -> ast.Module:
    """Return a copy of a tree with its node number ``place`` (as ``ast.walk`` counts) replaced."""
    copied = copy.deepcopy(tree)
    target = list(ast.walk(copied))[place]

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return replacement if node is target else self.generic_visit(node)

    return ast.fix_missing_locations(Replace().visit(copied))


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Return what may stand in a node's place."""
    match node:
        case ast.Compare(left, [operator], [right]):
            yield from (ast.Compare(left, [new()], [right]) for new in _COMPARISONS[type(operator)])
        case ast.BinOp(left, operator, right):
            yield from (ast.BinOp(left, new(), right) for new in _OPERATORS.get(type(operator), []))
            if isinstance(operator, _TURN_ROUND):
                yield ast.BinOp(right, operator, left)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.IfExp(test, body, otherwise):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, otherwise)
        case ast.Name(name, context) if name in _NAMES:
            yield ast.Name(_NAMES[name], context)
        case ast.Attribute(value, name, context) if name in _NAMES:
            yield ast.Attribute(value, _NAMES[name], context)
        case ast.Tuple(elements, ast.Load() as context) if len(elements) > 1:
            yield ast.Tuple(elements[::-1], context)
        case ast.If(test, body, otherwise):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, otherwise)
    if isinstance(node, ast.stmt):
        yield ast.Pass()
