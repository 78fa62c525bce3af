// The table of methods by tasks: heat, sorting by any column, the papers' rows in groups below.

function columnsOf(held) {
  const view = currentView();
  const tasks = held.board.columns.map((column) => ({
    key: `task:${column.task}`, name: column.task, column,
    note: [column.metric, view === "normalised" && column.direction === "down" ? "minus oracle" : "",
      column.reason ? "not counted" : ""].filter(Boolean).join(", "),
    title: `${column.dataset.hub}, ${column.dataset.split}, ${column.n} items`
      + (column.reason ? `; not counted: ${column.reason}` : ""),
    score: (row) => scoreOf(held, row, column, view),
    down: column.direction === "down" && view !== "gap",
  }));
  const costs = COSTS.filter(([field]) => held.board.rows.some((row) => get(row.cost, field) != null))
    .map(([field, name, unit, format]) => ({ key: field, name, note: unit, down: true, cost: format,
      value: (row) => get(row.cost, field) ?? null }));
  const means = { normalised: "over the oracle", gap: "mean gap", change: "mean change",
    raw: held.board.oblivion ? "mean score" : "over the oracle" };
  const note = headlineName(held) === "Δ loss" ? "above the oracle" : held.board.losses ? "mean" : means[view];
  const mean = { key: "ability", name: headlineName(held), note, down: isDown(held, null, view),
    score: (row) => headline(held, row, view) };
  return [{ key: "method", name: "method", note: "", down: true, value: (row) => row.label }, mean, ...tasks,
    ...costs];
}

const COSTS = [
  ["extra_parameters", "extra", "parameters", amount],
  ["eval_seconds", "eval", "seconds", duration],
];

function valueIn(column, row) {
  return column.value ? column.value(row) : column.score(row)?.value ?? null;
}

// Best first unless asked otherwise; what is missing comes last either way.
function sorted(rows, columns) {
  const column = columns.find((other) => other.key === state.sort) ?? columns[1];
  const up = (state.order || (column.down ? "ascending" : "descending")) === "ascending";
  const keyed = rows.map((row, place) => ({ row, place, value: valueIn(column, row) }));
  keyed.sort((x, y) => {
    if (x.value === null || y.value === null) return (x.value === null) - (y.value === null) || x.place - y.place;
    const order = typeof x.value === "string" ? x.value.localeCompare(y.value) : x.value - y.value;
    return (up ? order : -order) || x.place - y.place;
  });
  return withControls(keyed.map(({ row }) => row));
}

// Controls stand beneath their method, wherever that goes.
function withControls(rows) {
  const measured = new Set(rows.filter((row) => row.origin === "measured").map((row) => row.label));
  return rows.filter((row) => !measured.has(row.control_of)).flatMap((row) =>
    [row, ...rows.filter((other) => row.origin === "measured" && other.control_of === row.label)]);
}

function sortBy(column) {
  const first = column.down ? "ascending" : "descending";
  const now = state.sort === column.key ? state.order || first : "";
  setState({ sort: column.key, order: now === first ? OPPOSITE[first] : "" });
}

const OPPOSITE = { ascending: "descending", descending: "ascending" };

function header(column) {
  const active = state.sort === column.key;
  const order = active ? state.order || (column.down ? "ascending" : "descending") : "none";
  const button = el("button",
    { type: "button", class: "sort", "data-key": `sort ${column.key}`, on: { click: () => sortBy(column) } },
    breakable(column.name), el("small", {}, column.note));
  const name = column.key === "ability" ? "ability" : null;
  return el("th", { scope: "col", "aria-sort": order, title: column.title, class: name }, button);
}

// In a site, a method's name leads to its page.
function named(label) {
  const href = get(PAGES, label);
  return href ? el("a", { href }, breakable(label)) : breakable(label);
}

function methodCell(row) {
  const chips = [{ floor: "floor", oracle: "reference", control: "control" }[row.role]
    ?? (row.origin === "measured" ? row.family : null), row.note].filter(Boolean);
  return el("th", { scope: "row" },
    rank(row), named(row.label),
    el("small", {}, chips.map((chip) => [el("span", { class: "chip" }, chip), " "])),
    row.method_lead ? el("small", { title: "the method's score minus the control's, on the same items" },
      lead(row.method_lead)) : null);
}

function lead({ value, se }) {
  const half = se === null ? null : Z95 * se;
  return `method − control ${signed(value)}`
    + (half === null ? "" : `, 95% ${signed(value - half)} to ${signed(value + half)}`);
}

// The place, and below it the places that cannot be ruled out.
function rank({ rank: place, rank_low: low, rank_high: high, tied }) {
  if (place === null) return el("span", { class: "rank" });
  const range = low === high || low === null || low === undefined ? "" : `${low}–${high}`;
  return el("span", { class: "rank", title: range ? `place ${place}; ${low} to ${high} cannot be ruled out` : null },
    (tied ? "=" : "") + place, el("small", {}, range));
}

function scoreCell(held, row, column) {
  const score = column.score(row);
  const extra = column.key === "ability" ? "ability" : "";
  if (!score) return el("td", { class: `missing ${extra}`, title: row.note ?? "not measured" }, "–");
  const kind = ["difference", "change"].includes(score.kind);
  const uncounted = score.kind === "raw" && currentView() !== "raw" ? "uncounted" : "";
  const heat = score.heat === null ? "" : score.heat < 0 ? "cold" : "heat";
  const own = row.role === "oracle" && score.value === 1 && ["normalised", "gap"].includes(score.kind);  // by definition
  const known = score.kind === "change" && score.after !== null;
  if (known && row.label === "base") return el("td", { class: extra }, number(score.before), el("small", {}, "before"));
  return el("td", { class: `${extra} ${heat} ${uncounted}`, heat: score.heat === null ? null : Math.abs(score.heat),
    title: cellTitle(row, column, score) },
    kind ? signed(score.value) : number(score.value), el("small", {}, own ? "" : plusMinus(score)),
    known ? el("small", {}, `${number(score.before)} → ${number(score.after)}`) : null);
}

function cellTitle(row, column, score) {
  const lines = [details(score.kind, score)];
  const task = column.column ? get(row.tasks, column.column.task) : null;
  for (const [name, metric] of Object.entries(task?.metrics ?? {})) lines.push(details(name, metric));
  if (task?.recovered) lines.push(details("recovered gap", task.recovered));
  return lines.join("\n");
}

function costCell(row, column) {
  const value = column.value(row);
  return value === null ? el("td", { class: "missing" }, "–") : el("td", {}, column.cost(value));
}

function line(held, row, columns) {
  return el("tr", { class: `${row.role} ${row.origin}` }, methodCell(row), columns.slice(1).map((column) =>
    column.score ? scoreCell(held, row, column) : costCell(row, column)));
}

function renderTable() {
  const held = current();
  const columns = columnsOf(held);
  const rows = sorted(visibleRows(), columns);
  const papers = [...new Set(rows.filter((row) => row.origin === "reported").map((row) => row.source ?? ""))];
  const made = held.board.oblivion ? "changes computed" : "normalised";
  const groups = papers.map((paper) => el("tbody", {},
    el("tr", { class: "group" }, el("td", { colspan: columns.length },
      el("span", {}, el("span", { class: "chip" }, "reported"), ` ${paper}, ${made} here from the printed scores`))),
    rows.filter((row) => row.origin === "reported" && (row.source ?? "") === paper)
      .map((row) => line(held, row, columns))));
  const measured = rows.filter((row) => row.origin === "measured");
  replace("scores", el("thead", {}, el("tr", {}, columns.map(header))),
    el("tbody", {}, measured.map((row) => line(held, row, columns))), groups);
  replace("count", `${rows.length} of ${held.board.rows.length} rows`);
  replace("meaning", meaning(held, currentView()));
}
