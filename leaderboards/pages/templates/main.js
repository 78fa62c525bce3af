// Controls and downloads; and drawing it all again whenever the state changes.

const { leaderboard: LEADERBOARD, extras: EXTRAS, methods: PAGES } = JSON.parse(document.getElementById("data").textContent);
const BOARDS = LEADERBOARD.boards.map((board, place) => ({ board, extra: EXTRAS[place] ?? {} }));

function options(id, choices, chosen) {
  replace(id, choices.map(([value, name]) => el("option", { value, selected: value === chosen }, name)));
}

function renderControls() {
  const { board } = current();
  const families = [...new Set(board.rows.map((row) => row.family))].sort();
  options("family", [["", "all families"], ...families.map((family) => [family, family])], state.family);
  const plots = board.columns.map((column) => [`task:${column.task}`, column.task]);
  options("plot", [["ability", headlineName(current())], ...plots], state.plot);
  const search = document.getElementById("search");
  if (search.value !== state.search) search.value = state.search;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", button.dataset.view === currentView());
    button.hidden = !viewsOf(current()).includes(button.dataset.view);
  }
  for (const link of document.querySelectorAll("[data-open]")) {
    if (link.dataset.open === state.board) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const words of document.querySelectorAll("[data-board]")) {
    words.hidden = words.dataset.board !== state.board;
  }
  document.getElementById("cost").value = state.cost;
}

function render() {
  if (!BOARDS.length) return;
  const focused = document.activeElement?.dataset?.key;
  renderControls();
  renderTable();
  renderLegend();
  renderForest();
  renderPareto();
  renderCompare();
  renderSamples();
  if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

// A field that begins like a formula gets an apostrophe, so that a spreadsheet does not run it.
function field(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// Part of a score -> how its column is called.
const PARTS = {
  change: { before: "before", after: "after", value: "change", se: "se", sd: "sd" },
  other: { value: "", se: "se", sd: "sd" },
};

function csv() {
  const held = current();
  const columns = columnsOf(held);
  const scores = columns.filter((column) => column.score);
  const parts = PARTS[currentView()] ?? PARTS.other;
  const head = ["rank", "rank_low", "rank_high", "method", "family", "role", "origin", "source", "note",
    ...scores.flatMap(({ name }) => Object.values(parts).map((word) => `${name} ${word}`.trim())),
    ...COSTS.map(([name]) => name)];
  const lines = sorted(visibleRows(), columns).map((row) => [
    row.rank, row.rank_low, row.rank_high, row.label, row.family, row.role, row.origin, row.source, row.note,
    ...scores.map((column) => column.score(row)).flatMap((score) => Object.keys(parts).map((part) => score?.[part])),
    ...COSTS.map(([name]) => get(row.cost, name))]);
  return [head, ...lines].map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
}

function download(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function boardName() {
  const { suite, zoo } = current().board;
  return `${suite}-${zoo}`.replace(/[^\w.-]+/g, "_");
}

function listen() {
  const on = (id, event, action) => document.getElementById(id).addEventListener(event, action);
  for (const name of ["family", "plot", "cost", "a", "b", "task"]) {
    on(name, "change", (event) => setState({ [name]: event.target.value }));
  }
  on("skip", "click", (event) => { event.preventDefault(); document.querySelector(".sort")?.focus(); });
  on("search", "input", (event) => setState({ search: event.target.value }));
  on("swap", "click", () => { const [a, b] = chosenPair(current()); setState({ a: b, b: a }); });
  on("csv", "click", () => download(`${boardName()}.csv`, "text/csv", csv()));
  on("json", "click", () =>
    download("leaderboard.json", "application/json", `${JSON.stringify(LEADERBOARD, null, 1)}\n`));
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => setState({ view: button.dataset.view }));
  }
  for (const link of document.querySelectorAll("[data-open]")) {
    link.addEventListener("click", () => setState({ ...DEFAULTS, board: link.dataset.open, view: state.view }));
  }
  addEventListener("hashchange", () => { readState(); render(); });
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(render, 100); });
}

listen();
readState();
render();
