// A page that was opened as a file may not read other files: there a search lists titles, without their text.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false

// Sphinx shows the text around a word's stem, and no text has "entropi"; here it shows what is around the word itself.
document.addEventListener("DOMContentLoaded", () => {
    const words = (new URLSearchParams(location.search).get("q") || "").split(/\s+/).filter(Boolean)
    if (typeof Search === "undefined" || !words.length) return
    const around = Search.makeSearchSummary
    Search.makeSearchSummary = (page, stems, anchor) => around(page, words, anchor)
})
