// SamplingExplorer: every number below is looked up in what the engine recorded; only places on the page are computed.
"use strict"

explorers.players.sampling = (root, recording) => {
    const {html, svg, set} = explorers
    const names = ["temperature", "top_k", "top_p", "min_p"]
    const label = {temperature: "temperature", top_k: "top-k", top_p: "top-p", min_p: "min-p"}
    const stops = Object.fromEntries(Object.entries(recording.knobs).map(([name, values]) => [name, values.map(String)]))
    const numShown = recording.prompts[0].labels.length
    const off = {top_k: stops.top_k.indexOf("0"), top_p: stops.top_p.indexOf("1"), min_p: stops.min_p.indexOf("0")}
    const percent = share => `${(100 * share).toFixed(1)} %`
    const say = explorers.speaker(recording.words[explorers.language])
    const tokens = number => say(number === 1 ? "{n} token" : "{n} tokens", {n: number.toLocaleString("en")})
    const says_of = at => outcome(at).says[explorers.language]

    const state = {prompt: 0, axis: "linear", a: null, presses: 0, drawn: false, now: {}}
    for (const name of [...names, "order"]) state.now[name] = stops[name].indexOf(String(recording.start[name]))

    // -- looking up ------------------------------------------------------------------------------------------------

    const outcome = at => {
        const prompt = recording.prompts[state.prompt]
        const place = names.reduce((index, name) => index * stops[name].length + at[name], at.order)
        return prompt.outcomes[at.temperature][prompt.places[place]]
    }

    /** Return what each filter left, in the order in which they ran: the outcome with all later ones off. */
    const steps = at => {
        const isGreedy = stops.temperature[at.temperature] === "0"
        let so_far = {...at, ...off}
        const found = [{name: "temperature", isOn: true, outcome: outcome(so_far)}]
        for (const name of recording.filters[stops.order[at.order]]) {
            so_far = {...so_far, [name]: at[name]}
            found.push({name, isOn: !isGreedy && at[name] !== off[name], outcome: outcome(so_far)})
        }
        return found
    }

    const setting = at => [...names, "order"].map(name => `${name}=${stops[name][at[name]]}`).join(", ")

    const sentences = () => {
        const drawn = state.drawn
            ? say("; {num_draws} draws gave {num_unique} different tokens", {num_draws: recording.draws, num_unique: draws()[0]})
            : ""
        const now = says_of(state.now) + drawn
        return state.a ? [say("A ({setting}): {told}", {setting: setting(state.a), told: says_of(state.a)}), say("now: {now}", {now})] : [now]
    }

    const draws = () => {
        const {drawn} = outcome(state.now)
        return drawn[(state.presses - 1) % drawn.length]
    }

    // -- the controls ----------------------------------------------------------------------------------------------

    const moved = () => {
        state.drawn = false
        show()
    }
    const prompt = explorers.select(say("prompt"), recording.prompts.map(each => each.text), 0, place => {
        state.prompt = place
        moved()
    })
    const sliders = names.map(name => explorers.slider(label[name], stops[name], state.now[name], place => {
        state.now[name] = place
        moved()
    }))
    const order = explorers.choice(say("order"), stops.order, state.now.order, place => {
        state.now.order = place
        moved()
    })
    const axis = explorers.choice(say("axis"), [say("linear"), say("logarithmic")], 0, place => {
        state.axis = ["linear", "log"][place]
        show()
    })
    const drawButton = explorers.button(say("Draw {num_draws}", {num_draws: recording.draws}), () => {
        state.presses += 1
        state.drawn = true
        show()
    })
    const keepButton = explorers.button(say("Keep as A"), () => {
        state.a = state.a ? null : {...state.now}
        keepButton.textContent = say(state.a ? "Forget A" : "Keep as A")
        show()
    })

    // -- the picture -----------------------------------------------------------------------------------------------

    const says = html("p", {role: "status", class: "says"})
    const strip = html("div", {class: "strip"})
    const bars = svg("svg", {role: "img"}), curve = svg("svg", {role: "img"})
    const shares = html("div", {class: "shares"})
    const panels = html("div", {class: "panels"}, bars, curve)

    const box = (look, [first, ...lines]) =>
        html("li", {class: look}, html("b", {}, first), ...lines.map(line => html("span", {}, line)))

    const showStrip = (name, at) => {
        const boxes = steps(at).map(step => {
            const value = stops[step.name][at[step.name]], {kept, mass} = step.outcome
            const share = step.name === "temperature" ? 1 : mass
            return step.isOn
                ? box("on", [`${label[step.name]} ${value}`, tokens(kept), percent(share)])
                : box("off", say("{name}\nis off", {name: label[step.name]}).split("\n"))
        })
        const {kept, bits} = outcome(at)
        const drawnFrom = say("drawn from\n{tokens}\nentropy {entropy:.2f} bits", {tokens: tokens(kept), entropy: bits})
        const last = box("last", drawnFrom.split("\n"))
        return html("div", {}, state.a ? html("b", {class: "whose"}, name) : "", html("ol", {}, ...boxes, last))
    }

    const shapes = () => {
        const {before, share} = recording.prompts[state.prompt]
        const model = {name: "model", words: say("model"), bars: before, share}
        const a = state.a ? [{name: "A", words: "A", ...outcome(state.a)}] : []
        return [model, ...a, {name: "now", words: say("now"), ...outcome(state.now)}]
    }

    const ENDS = [[0.01, 0.002], [0.02, 0.005], [0.05, 0.01], [0.1, 0.02], [0.2, 0.05], [0.3, 0.1], [0.4, 0.1],
        [0.6, 0.2], [0.8, 0.2], [1, 0.2]]

    /** Return the probability axis: a function from a share to its place (0 to 1), and its ticks. */
    const scale = longest => {
        if (state.axis === "linear") {
            const [end, step] = ENDS.find(([end]) => longest <= end + 1e-9)
            const ticks = Array.from({length: Math.round(end / step) + 1}, (_, i) => i * step)
            return {place: share => Math.min(share / end, 1), ticks, start: 0}
        }
        const least = Math.min(...recording.prompts[state.prompt].before)
        const first = Math.floor(Math.log10(Math.max(least, 1e-9))) - 1
        const ticks = Array.from({length: 1 - first}, (_, i) => 10 ** (first + i))
        const place = share => share <= 0 ? 0 : Math.max(0, (Math.log10(share) - first) / -first)
        return {place, ticks, start: 10 ** first}
    }

    /** Return the line that says what each look means. */
    const keyOf = all => {
        const keys = [...all.map(({name, words}) => [name, words, "■"]), ["dropped", say("dropped"), "×"]]
        if (state.drawn) keys.push(["drawn", say("{num_draws} draws", {num_draws: recording.draws}), "◆"])
        return svg("text", {x: 4, y: 15}, ...keys.flatMap(([look, words, mark], i) => [
            svg("tspan", {class: `key ${look}`, dx: i ? 12 : 0}, mark), svg("tspan", {dx: 4}, words)]))
    }

    /** Return a token's bars, one for each shape. y, height: of its row.  x: from a share to its place. */
    const barsOf = (place, all, y, height, left, x, start) => all.flatMap((shape, i) => {
        const value = shape.bars[place], top = y + 2 + i * height / all.length, thick = height / all.length - 1
        const parts = [], middle = top + (thick + 1) / 2
        if (value > start) parts.push(svg("rect",
            {class: `bar ${shape.name}`, x: left, width: Math.max(x(value) - left, 0.5), y: top, height: thick}))
        if (shape.name !== "now") return parts
        if (value === 0) parts.push(svg("text", {class: "key dropped", x: left + 4, y: middle + 4}, "×"))
        const drawn = state.drawn ? draws()[1 + place] / recording.draws : -1
        if (value > 0 && drawn >= start) parts.push(svg("path",
            {class: "drawn", d: "M0 -5L5 0L0 5L-5 0Z", transform: `translate(${x(drawn)} ${middle})`}))
        return parts
    })

    const showBars = width => {
        const {labels} = recording.prompts[state.prompt], all = shapes()
        const left = 120, right = width - 26, top = 30, row = 22 + 4 * (all.length - 2), bottom = top + numShown * row
        const {place, ticks, start} = scale(Math.max(...all.flatMap(shape => shape.bars)))
        const x = share => left + place(share) * (right - left)
        set(bars, {width, height: bottom + 42, viewBox: `0 0 ${width} ${bottom + 42}`})
        bars.replaceChildren(
            ...ticks.flatMap(tick => explorers.upright(x(tick), top, bottom, `${Number((100 * tick).toPrecision(3))} %`)),
            keyOf(all),
            ...labels.flatMap((token, i) => [
                svg("text", {class: "token", x: left - 8, y: top + i * row + row / 2 + 4, "text-anchor": "end"}, token),
                ...barsOf(i, all, top + i * row, row - 5, left, x, start)]),
            svg("line", {class: "axis", x1: left, x2: left, y1: top, y2: bottom}),
            svg("text", {x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle"}, say("probability")))
        const told = labels.map((token, i) => `${token} ` + all.map(shape =>
            `${shape.words} ${shape.bars[i] ? percent(shape.bars[i]) : say("dropped")}`).join(", "))
        const title = say("The {num_shown} likeliest tokens: {bars}", {num_shown: numShown, bars: told.join("; ")})
        set(bars, {"aria-label": title})
        return bottom
    }

    const showCurve = (width, bottom) => {
        const {ranks, curves, vocabulary} = recording.prompts[state.prompt]
        const left = 52, right = width - 14, top = 30
        const span = Math.log(vocabulary / 0.9)
        const x = rank => left + Math.log(rank / 0.9) / span * (right - left)
        const y = share => bottom - share / 1.04 * (bottom - top)
        const line = (at, most) => ranks.map((rank, i) => [rank, curves[at.temperature][i]])
            .filter(([rank]) => rank <= most).map(([rank, share]) => `${x(rank).toFixed(1)},${y(share).toFixed(1)}`)
        const parts = [1, 10, 100, 1000, 10000].filter(each => each < vocabulary).flatMap(
            rank => explorers.upright(x(rank), top, bottom, rank < 1000 ? rank : `${rank / 1000}k`))
        for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1])
            parts.push(...explorers.level(y(share), left, right, `${Math.round(100 * share)} %`))
        if (state.a) parts.push(svg("polyline", {class: "line A", points: line(state.a, vocabulary).join(" ")}))
        const now = outcome(state.now), kept = line(state.now, now.kept), end = kept[kept.length - 1].split(",")
        parts.push(svg("polyline", {class: "line all", points: line(state.now, vocabulary).join(" ")}))
        parts.push(svg("polyline", {class: "line now", points: kept.join(" ")}))
        parts.push(svg("circle", {class: "now", cx: end[0], cy: end[1], r: 5}))
        parts.push(...cuts(x, y, left, right, top, bottom))
        parts.push(svg("text", {x: 4, y: 15}, say("their probability together")))
        parts.push(svg("text", {x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle"}, say("number of tokens, likeliest first")))
        set(curve, {width, height: bottom + 42, viewBox: `0 0 ${width} ${bottom + 42}`})
        curve.replaceChildren(...parts)
        set(curve, {"aria-label": say("Tokens kept: {kept}; their probability together: {percent}",
            {kept: now.kept, percent: percent(now.mass)})})
    }

    /** Return a line for each filter that is on, where it cuts. */
    const cuts = (x, y, left, right, top, bottom) => {
        let before = 1
        return steps(state.now).slice(1).filter(step => step.isOn).flatMap((step, i) => {
            const value = recording.knobs[step.name][state.now[step.name]], words = `${label[step.name]} ${value}`
            const mass = before
            before = step.outcome.mass
            if (step.name === "top_p") {
                const at = y(value * mass), told = mass > 0.9995 ? words : `${words} × ${percent(mass)}`
                return [svg("line", {class: "cut", x1: left, x2: right, y1: at, y2: at}),
                    svg("text", {class: "cut", x: right - 4, y: at + 15, "text-anchor": "end"}, told)]
            }
            const alone = outcome({...state.now, ...off, [step.name]: state.now[step.name]}).kept
            const at = x(step.name === "top_k" ? value : alone)
            return [svg("line", {class: "cut", x1: at, x2: at, y1: top, y2: bottom}),
                svg("text", {class: "cut", x: at + 5, y: bottom - 8 - 18 * i}, words)]
        })
    }

    const showShares = () => {
        const {before, vocabulary} = recording.prompts[state.prompt]
        const others = (vocabulary - before.length).toLocaleString("en")
        shares.replaceChildren(html("p", {}, say("where all the probability is: these {num_shown} tokens, and all others", {num_shown: numShown})),
            ...shapes().map(({name, words, share}) => html("div", {class: "share"}, html("b", {}, words),
                html("span", {class: "whole", "aria-hidden": "true"}, html("span", {class: `bar ${name}`, style: `width: ${100 * share}%`})),
                html("span", {}, say("these {num_head}: {percent}   {rest:,} others: {percent2}",
                    {num_head: numShown, percent: percent(share), rest: others, percent2: percent(Math.max(1 - share, 0))})))))
    }

    const show = () => {
        says.textContent = sentences().join("\n")
        strip.replaceChildren(...(state.a ? [showStrip("A", state.a)] : []), showStrip(say("now"), state.now))
        const whole = panels.clientWidth, isNarrow = whole < 640
        const bottom = showBars(isNarrow ? whole : Math.round(whole * 0.58) - 8)
        showCurve(isNarrow ? whole : Math.round(whole * 0.42) - 8, isNarrow ? 280 : bottom)
        showShares()
    }

    root.replaceChildren(
        prompt,
        html("div", {class: "controls"}, html("div", {}, ...sliders),
            html("div", {}, order, axis, html("div", {class: "buttons"}, drawButton, keepButton))),
        says,
        html("div", {class: "strip-title"},
            say("in this order: how many tokens are left, and their share of the probability after temperature")),
        strip, panels, shares)
    new ResizeObserver(show).observe(root)
    // For tests: what the page says at a point of the grid.
    root.sayAt = (place, at) => {
        const before = {prompt: state.prompt, a: state.a, drawn: state.drawn, now: state.now}
        Object.assign(state, {prompt: place, a: null, drawn: false, now: at})
        const told = [setting(at), ...steps(at).map(step => `${label[step.name]}: ${step.outcome.kept}`), says_of(at)]
        Object.assign(state, before)
        return told
    }
}
