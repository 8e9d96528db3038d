// StepDebugger: a run that the engine recorded, moment by moment, and in each of them hop by hop.
"use strict"

explorers.players.steps = (root, recording) => {
    const {html} = explorers
    const {moments, pictures} = recording, say = explorers.speaker(recording.words)
    let moment = recording.start, hop = 0
    const says = html("p", {role: "status", class: "says"})
    const shows = html("div", {class: "shows"})

    const go = (to, part) => {
        moment = to
        hop = part
        const {says: words, shows: picture} = moments[moment][hop]
        says.textContent = words
        shows.innerHTML = explorers.withPictures(picture, pictures)
        slider.querySelector("input").value = moment
        slider.querySelector("input").dispatchEvent(new Event("moved"))
    }
    const step = () => go((moment + 1) % moments.length, 0)
    const nextHop = () => hop + 1 < moments[moment].length ? go(moment, hop + 1) : step()

    const slider = explorers.slider(say("history"), moments.map((_, place) => String(place)), moment, place => go(place, 0))
    const buttons = html("div", {class: "buttons"}, explorers.button(say("Step"), step),
        explorers.button(say("Next hop"), nextHop), explorers.button(say("Begin again"), () => go(0, 0)))
    root.replaceChildren(html("div", {class: "controls"}, slider, buttons), says, shows)
    go(moment, 0)
}
