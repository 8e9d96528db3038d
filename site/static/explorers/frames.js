// Explorers that show, at every setting of their controls, a sentence and a picture in HTML that the widget itself wrote.
"use strict"

explorers.players.frames = (root, recording) => {
    const {html} = explorers
    const at = recording.controls.map(control => control.start)
    const says = html("p", {role: "status", class: "says"})
    const shows = html("div", {class: "shows"})

    const frame = places => recording.frames[
        recording.controls.reduce((index, {stops}, i) => index * stops.length + places[i], 0)]

    const show = () => {
        const {says: words, shows: picture} = frame(at)
        says.textContent = words
        shows.innerHTML = explorers.withPictures(picture, recording.pictures)
    }

    const controls = recording.controls.map(({kind, label, stops, start}, i) => explorers[kind](label, stops, start, place => {
        at[i] = place
        show()
    }))
    root.replaceChildren(html("div", {class: "controls"}, ...controls), says, shows)
    show()
    // For tests: what the page says at a setting.
    root.sayAt = places => frame(places).says
}
