// The search: rows that hold every word stay; the words are kept in the address, so that a search can be shared.

const search = document.getElementById("search");
const rows = [...document.querySelectorAll("tbody tr")];

function show(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const content = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => content.includes(word));
  }
  const left = rows.filter((row) => !row.hidden).length;
  replace("count", `${left} of ${rows.length} rows`);
}

function asked() {
  return new URLSearchParams(location.hash.slice(1)).get("search") ?? "";
}

function restore() {
  search.value = asked();
  show(search.value);
}

search.addEventListener("input", () => {
  history.replaceState(null, "", search.value ? `#${new URLSearchParams({ search: search.value })}` : "#");
  show(search.value);
});
addEventListener("hashchange", restore);
restore();
