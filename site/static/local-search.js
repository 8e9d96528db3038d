// A page that was opened as a file may not read other files: there a search lists titles, without their text.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false
