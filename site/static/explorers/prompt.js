// PromptBox: what the engine wrote at a setting, played token by token. There is no engine in a page to write more.
"use strict"

explorers.players.prompt = (root, recording) => {
    const {html} = explorers
    const {prompts, knobs, runs, places} = recording, say = explorers.speaker(recording.words[explorers.language])
    const MILLISECONDS = 80  // from token to token: slow enough to see each
    const at = [...recording.start]
    const isStill = matchMedia("(prefers-reduced-motion: reduce)")
    let timer = null

    const written = html("p", {class: "written"})
    const says = html("p", {role: "status", class: "says"})

    const run = () => runs[places[Object.values(knobs).reduce((sum, stops, i) => sum * stops.length + at[i + 1], at[0])]]
    const ended = ({ending}) => `${ending[explorers.language]} ${say("Bold: what the model wrote.")}`

    const show = number => {
        const {pieces} = run(), isWhole = number === pieces.length
        written.replaceChildren(prompts[at[0]], html("b", {}, pieces.slice(0, number).join("")))
        // How far it is, is not read out: a screen reader would say it for each token.
        const soFar = say(number === 1 ? "{n} token" : "{n} tokens", {n: number})
        says.replaceChildren(isWhole ? ended(run()) : html("span", {"aria-hidden": "true"}, `${soFar} ...`))
        if (isWhole) clearInterval(timer)
    }

    const play = () => {
        let number = isStill.matches ? run().pieces.length : 1
        clearInterval(timer)
        timer = setInterval(() => show(++number), MILLISECONDS)
        show(number)
    }

    const move = i => place => {
        at[i] = place
        clearInterval(timer)
        written.replaceChildren()
        says.textContent = say("Press Generate.")
    }

    root.replaceChildren(
        explorers.select(say("prompt"), prompts, at[0], move(0)),
        html("div", {class: "controls"},
            html("div", {}, ...["temperature", "seed"].map((name, i) =>
                explorers.slider(name, knobs[name].map(String), at[i + 1], move(i + 1)))),
            html("div", {}, explorers.tick(say("use the chat template"), at[3], move(3)),
                html("div", {class: "buttons"}, explorers.button(say("Generate"), play)))),
        written, says, html("p", {class: "told"}, recording.words[explorers.language].told))
    show(run().pieces.length)
    // For tests: what the page says at a point of the grid.
    root.sayAt = point => {
        const before = at.splice(0, at.length, ...point), told = [run().pieces.join(""), ended(run())]
        at.splice(0, at.length, ...before)
        return told
    }
}
