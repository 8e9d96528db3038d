// KVBudget: how the KV cache's memory is used. Each number is looked up; only places on the page are computed.
"use strict"

explorers.players.budget = (root, recording) => {
    const {html, svg, set} = explorers
    const {controls, points} = recording, say = explorers.speaker(recording.words)
    const names = Object.keys(controls)
    const at = [...recording.start]
    const percent = share => `${(100 * share).toFixed(1)} %`

    /** Return a point of the grid. changed: controls that stand elsewhere, by their name. */
    const point = (changed = {}) => {
        const index = names.reduce((sum, name, i) => sum * controls[name].length + (changed[name] ?? at[i]), 0)
        const [says, sequences, empty, left] = points[index]
        return {says, sequences, empty, left}
    }

    const says = html("p", {role: "status", class: "says"})
    const bar = html("div", {class: "memory", role: "img"})
    const fit = svg("svg", {role: "img"}), waste = svg("svg", {role: "img"})
    const panels = html("div", {class: "panels"}, fit, waste)

    const PARTS = [["used", say("keys and values")], ["empty", say("empty ends of last blocks")], ["left", say("left over: too little for one more sequence")]]
    const legend = html("p", {class: "legend"}, ...PARTS.flatMap(([look, words]) => [
        html("span", {class: `patch ${look}`, "aria-hidden": "true"}), ` ${words} `]))

    const showMemory = ({sequences, empty, left}) => {
        const shares = {used: 1 - empty - left, empty, left}
        bar.replaceChildren(...PARTS.map(([look]) => html("span", {class: `patch ${look}`, style: `width: ${100 * shares[look]}%`})))
        set(bar, {"aria-label": PARTS.map(([look, words]) => `${words}: ${percent(shares[look])}`).join("; ")})
    }

    const frame = (picture, width, title, below) => {
        const box = {left: 50, right: width - 14, top: 28, bottom: 210}
        set(picture, {width, height: 254, viewBox: `0 0 ${width} 254`, "aria-label": title})
        picture.replaceChildren(svg("text", {x: 4, y: 15}, title),
            svg("line", {class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom}),
            svg("text", {x: (box.left + box.right) / 2, y: 246, "text-anchor": "middle"}, below))
        return box
    }

    const showFit = width => {
        const {left, right, top, bottom} = frame(fit, width, say("sequences that fit"), say("tokens per sequence"))
        const lengths = controls.length
        const x = length => left + Math.log(length / 14) / Math.log(9000 / 14) * (right - left)
        const y = count => bottom - Math.log(count / 0.8) / Math.log(2e4 / 0.8) * (bottom - top)
        for (const count of [1, 10, 100, 1000, 10000])
            fit.append(...explorers.level(y(count), left, right, count < 1000 ? count : `${count / 1000}k`))
        for (const length of [16, 100, 800, 8192]) fit.append(
            svg("text", {x: x(length), y: bottom + 17, "text-anchor": "middle"}, length.toLocaleString("en")))
        const counts = lengths.map((_, i) => point({length: i}).sequences)
        const shown = counts.map((count, i) => [lengths[i], count]).filter(([, count]) => count > 0)
        fit.append(svg("polyline", {class: "line now thin", points: shown.map(([length, count]) => `${x(length)},${y(count)}`).join(" ")}))
        shown.forEach(([length, count]) => fit.append(svg("circle", {class: "now", cx: x(length), cy: y(count), r: 3})))
        const now = counts[at[names.indexOf("length")]]
        if (now) fit.append(svg("path", {class: "drawn", d: "M0 -7L7 0L0 7L-7 0Z",
            transform: `translate(${x(lengths[at[names.indexOf("length")]])} ${y(now)})`}))
        set(fit, {"aria-label": `${say("sequences that fit")}: ${counts.map((count, i) => `${lengths[i]}: ${count}`).join(", ")}`})
    }

    const showWaste = width => {
        const {left, right, top, bottom} = frame(waste, width, say("memory that holds nothing"), say("tokens per block"))
        const all = controls.block_size.map((_, i) => point({block_size: i}))
        const highest = Math.max(...all.map(each => each.empty + each.left))
        const end = [0.1, 0.2, 0.4, 0.6, 0.8, 1].find(each => highest <= each + 1e-9)
        const y = share => bottom - share / end * (bottom - top - 14), step = (right - left) / all.length
        for (const part of [0, 0.5, 1])
            waste.append(...explorers.level(y(end * part), left, right, `${Math.round(100 * end * part)} %`))
        all.forEach(({empty, left: over}, i) => {
            const from = left + i * step + step * 0.15, width = step * 0.7, both = y(empty + over)
            const look = [i === at[names.indexOf("block_size")] ? "strong" : "", step < 34 ? "small" : ""].join(" ")
            waste.append(
                svg("rect", {class: "patch empty", x: from, width, y: y(empty), height: bottom - y(empty)}),
                svg("rect", {class: "patch left", x: from, width, y: both, height: y(empty) - both}),
                svg("text", {class: look, x: from + width / 2, y: both - 4, "text-anchor": "middle"}, (100 * (empty + over)).toFixed(1)),
                svg("text", {class: look, x: from + width / 2, y: bottom + 17, "text-anchor": "middle"}, controls.block_size[i]))
        })
        set(waste, {"aria-label": `${say("memory that holds nothing")}: ${all.map((each, i) => `${controls.block_size[i]}: ${percent(each.empty + each.left)}`).join(", ")}`})
    }

    const show = () => {
        const now = point()
        says.textContent = now.says
        showMemory(now)
        const whole = panels.clientWidth, width = whole < 560 ? whole : Math.floor(whole / 2) - 8
        showFit(width)
        showWaste(width)
    }

    const labels = {memory: say("memory (MiB)"), length: say("sequence length"), block_size: "block_size", dtype: "dtype"}
    const made = names.map((name, i) => explorers[name === "dtype" ? "choice" : "slider"](
        labels[name], controls[name].map(String), at[i], place => {
            at[i] = place
            show()
        }))
    root.replaceChildren(html("div", {class: "controls"}, html("div", {}, ...made.slice(0, 3)), html("div", {}, made[3])),
        says, html("p", {class: "strip-title"}, say("the memory for the KV cache")), bar, legend, panels)
    new ResizeObserver(show).observe(root)
}
