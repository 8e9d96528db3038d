"""How well text on a page can be read: the contrast of its colour with what is behind it, as WCAG 2 computes it."""

from dataclasses import dataclass

from playwright.sync_api import Locator

ENOUGH = 4.5
"""What WCAG 2.2 asks for (level AA); it allows less for large letters, we do not."""
# Of every piece of text that can be seen: its contrast with the worst of the colours that may be behind it.
_MEASURE = r"""root => {
    const parse = text => {
        const numbers = text.match(/[\d.]+/g).map(Number)
        const whole = text.startsWith("color(") ? 255 : 1
        return [...numbers.slice(0, 3).map(each => each * whole), numbers.length > 3 ? numbers[3] : 1]
    }
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]))
    const luminance = color => {
        const [r, g, b] = color.map(each => {
            const part = each / 255
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
        })
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const contrast = (one, other) => {
        const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b)
        return (light + 0.05) / (dark + 0.05)
    }
    const behind = element => {
        if (element === null) return [[255, 255, 255]]
        const style = getComputedStyle(element)
        const stripes = (style.backgroundImage.match(/(rgba?|color)\([^()]*\)/g) || []).map(parse)
        const tops = stripes.length ? stripes : [parse(style.backgroundColor)]
        if (tops.every(top => top[3] === 1)) return tops.map(top => top.slice(0, 3))
        const below = behind(element.parentElement)
        return tops.flatMap(top => below.map(each => over(top, each)))
    }
    const seen = element => {
        const box = element.getBoundingClientRect()
        return box.width > 0 && box.height > 0 && element.checkVisibility({visibilityProperty: true})
    }
    const found = []
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) {
        const text = texts.currentNode.textContent.trim(), element = texts.currentNode.parentElement
        if (!text || element.closest("style") || !seen(element)) continue
        const color = parse(getComputedStyle(element).color)
        const worst = Math.min(...behind(element).map(each => contrast(over(color, each), each)))
        found.push([text.slice(0, 60), worst])
    }
    return found
}"""


@dataclass(frozen=True)
class Measured:
    """A piece of text that can be seen, and its contrast: 1 (none) to 21 (black on white)."""

    text: str
    contrast: float


def measure_contrast(root: Locator) -> list[Measured]:
    """Measure every piece of text inside an element."""
    return [Measured(text, contrast) for text, contrast in root.evaluate(_MEASURE)]


def hard_to_read(root: Locator) -> list[Measured]:
    """Return the pieces of text inside an element whose contrast is not enough."""
    return [each for each in measure_contrast(root) if each.contrast < ENOUGH]
