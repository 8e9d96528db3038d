// What all explorers of the book share. An explorer shows what the engine said when the book was built: a recording,
// which is a script, since a page that was opened as a file may not fetch anything else.
"use strict"

const explorers = {players: {}, recordings: {}}

{
    const SVG = "http://www.w3.org/2000/svg"

    /** The language of the page, as the course names it. */
    explorers.language = document.documentElement.lang.startsWith("zh") ? "zh" : "en"

    /** Return a function that says a sentence of some words in their language, with values in its places. */
    explorers.speaker = words => (message, values = {}) =>
        words[message].replace(/\{(\w+)[^}]*\}/g, (_, name) => values[name])

    /** Make an HTML element. attributes: by name; children: elements or texts. */
    explorers.html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children)

    /** Make an SVG element. */
    explorers.svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children)

    /** Set attributes of an element; null takes one away. */
    explorers.set = (element, attributes) => {
        for (const [name, value] of Object.entries(attributes)) {
            if (value === null) element.removeAttribute(name)
            else element.setAttribute(name, value)
        }
        return element
    }

    const fill = (element, attributes, children) => {
        element.append(...children)
        return explorers.set(element, attributes)
    }

    /** Return a line of a plot's grid up from its lower edge, and its words below. */
    explorers.upright = (x, top, bottom, words) => [
        explorers.svg("line", {class: "grid", x1: x, x2: x, y1: top, y2: bottom}),
        explorers.svg("text", {x, y: bottom + 16, "text-anchor": "middle"}, words)]

    /** Return a line of a plot's grid from its left edge, and its words beside it. */
    explorers.level = (y, left, right, words) => [
        explorers.svg("line", {class: "grid", x1: left, x2: right, y1: y, y2: y}),
        explorers.svg("text", {x: left - 6, y: y + 4, "text-anchor": "end"}, words)]

    /** Return a labelled slider that stops where the recording does. changed: called with the place of a stop. */
    explorers.slider = (label, stops, place, changed) => {
        const said = explorers.html("span", {"aria-hidden": "true"}, stops[place])
        const input = explorers.html("input", {type: "range", min: 0, max: stops.length - 1, step: 1})
        input.value = place
        const say = () => {
            said.textContent = stops[input.value]
            input.setAttribute("aria-valuetext", stops[input.value])
        }
        input.addEventListener("input", () => {
            say()
            changed(Number(input.value))
        })
        input.addEventListener("moved", say)  // by the explorer itself
        say()
        return explorers.html("label", {class: "slider"}, explorers.html("span", {}, label), input, said)
    }

    /** Return a choice among a few, as radio buttons. */
    explorers.choice = (label, options, place, changed) => {
        const group = `choice-${explorers.choice.made = (explorers.choice.made || 0) + 1}`
        const buttons = options.map((option, i) => {
            const input = explorers.html("input", {type: "radio", name: group})
            input.checked = i === place
            input.addEventListener("change", () => changed(i))
            return explorers.html("label", {}, input, option)
        })
        return explorers.html("fieldset", {}, explorers.html("legend", {}, label), ...buttons)
    }

    /** Return a labelled list to choose from; its label stands before it. */
    explorers.select = (label, options, place, changed) => {
        const select = explorers.html("select", {}, ...options.map(option => explorers.html("option", {}, option)))
        select.selectedIndex = place
        select.addEventListener("change", () => changed(select.selectedIndex))
        return explorers.html("label", {class: "prompt"}, explorers.html("span", {}, label), select)
    }

    /** Return a labelled box that is ticked or not: the second place of two, or the first. */
    explorers.tick = (label, place, changed) => {
        const input = explorers.html("input", {type: "checkbox"})
        input.checked = place === 1
        input.addEventListener("change", () => changed(Number(input.checked)))
        return explorers.html("label", {class: "tick"}, input, label)
    }

    /** Return a button. */
    explorers.button = (label, pressed) => {
        const made = explorers.html("button", {type: "button"}, label)
        made.addEventListener("click", pressed)
        return made
    }

    /** Return HTML with a recording's pictures in it: the first one, or it and a layer over it. */
    explorers.withPictures = (text, pictures) => text.replace(/src="picture:(\d+)"/g, (_, place) => place === "0"
        ? `src="${pictures[0]}"`
        : `src="${pictures[place]}" style="background: url(${pictures[0]}) 0 0 / 100% 100%"`)

    const start = element => {
        const {player, recording, source} = element.dataset
        const script = explorers.html("script", {src: source})
        script.addEventListener("load", () => explorers.players[player](element, explorers.recordings[recording]))
        document.head.append(script)
    }

    document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".explorer").forEach(start))
}
