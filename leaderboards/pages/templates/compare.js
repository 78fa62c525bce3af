// Two methods on the same items: differences with paired intervals, and how many items flipped.

function comparable(held) {
  return held.board.rows.filter((row) => row.origin === "measured").map((row) => row.label);
}

function chosenPair(held) {
  const labels = comparable(held);
  const methods = held.board.rows.filter((row) => row.origin === "measured" && row.role === "method");
  const first = methods[0]?.label ?? labels[0];
  const a = labels.includes(state.a) ? state.a : first;
  const other = methods.find((row) => row.label !== a)?.label ?? labels.find((label) => label !== a) ?? a;
  return [a, labels.includes(state.b) ? state.b : other];
}

function difference(name, metric, a, b, pair, down) {
  const value = a.value - b.value;
  const half = pair && pair.se !== null ? Z95 * pair.se : null;
  const first = value > 0 !== down;
  const clear = half !== null && (pair.p === undefined ? Math.abs(value) > half : pair.p <= pair.level);
  return el("tr", {}, el("th", { scope: "row" }, breakable(name), el("small", {}, metric)),
    el("td", {}, number(a.value)), el("td", {}, number(b.value)),
    el("td", { class: clear ? (first ? "win" : "lose") : "" }, signed(value),
      el("small", {}, half === null ? "" : `${signed(value - half)} to ${signed(value + half)}`)),
    el("td", {}, pair?.items ? `${pair.better}` : "–"), el("td", {}, pair?.items ? `${pair.worse}` : "–"),
    el("td", {}, pair?.items ? `${pair.items - pair.better - pair.worse}` : "–"),
    el("td", { class: "verdict" }, half === null ? "" : verdict(clear, first, pair.p) + (clear ? seedsAlike(a, b) : "")));
}

function compareRows(held, a, b) {
  const [x, y] = [a, b].map((label) => held.board.rows.find((row) => row.label === label && row.origin === "measured"));
  const tasks = held.board.columns.flatMap((column) => {
    const [p, q] = [x, y].map((row) => get(get(row.tasks, column.task)?.metrics, column.metric));
    const pair = pairOf(held, column.task, a, b);
    return p && q ? [difference(column.task, column.metric, p, q, pair, column.direction === "down")] : [];
  });
  if (x.overall && y.overall) {
    const pair = overallPair(held, a, b, "up");
    return [difference("overall", "mean score", x.overall, y.overall, pair, false), ...tasks];
  }
  if (x.losses && y.losses) {
    const pair = rankedPair(held, a, b) ?? overallPair(held, a, b, "down");
    return [difference("loss", "mean of the tasks", x.losses.mean, y.losses.mean, pair, true), ...tasks];
  }
  if (!x.ability || !y.ability) return tasks;
  const pair = abilityPair(held, a, b);
  return [difference("ability", "mean over the oracle", x.ability, y.ability, pair, false), ...tasks];
}

// Tasks share no items, so the errors of a mean of their differences add up in squares.
function overallPair(held, a, b, direction) {
  const scores = held.board.columns.filter((column) => column.direction === direction);
  const errors = scores.map((column) => pairOf(held, column.task, a, b)?.se ?? null);
  return errors.includes(null) ? null : { se: Math.hypot(...errors) / errors.length };
}

// Ranked methods were compared by the board itself, with Holm's correction; a floor or the oracle was not.
function rankedPair(held, a, b) {
  const ranked = held.board.ranking?.pairs.find((pair) =>
    (pair.a === a && pair.b === b) || (pair.a === b && pair.b === a));
  return ranked ? { ...ranked, level: held.board.ranking.level } : null;
}

function abilityPair(held, a, b) {
  const ranked = rankedPair(held, a, b);
  if (ranked) return ranked;
  const pairs = held.extra.pairs?.ability;
  const [i, j] = [a, b].map((label) => pairs?.labels.indexOf(label) ?? -1);
  return i < 0 || j < 0 ? null : { se: pairs.se[Math.max(i, j)][Math.min(i, j)] };
}

function verdict(clear, first, p) {
  const words = !clear ? "no clear difference" : first ? "A is better" : "B is better";
  return p === undefined ? words : `${words}, p ${p < 0.001 ? "under 0.001" : `= ${number(p)}`} after Holm`;
}

// The intervals are over items; in how many zoos the difference points the same way says something of zoos.
function seedsAlike(a, b) {
  const seeds = Object.keys(a.by_seed).filter((seed) => get(b.by_seed, seed) !== undefined);
  const alike = seeds.filter((seed) => (a.by_seed[seed] - b.by_seed[seed]) * (a.value - b.value) > 0);
  return seeds.length > 1 ? `, in ${alike.length} of ${seeds.length} seeds` : "";
}

function renderCompare() {
  const held = current();
  const labels = comparable(held);
  const [a, b] = chosenPair(held);
  options("a", labels.map((label) => [label, label]), a);
  options("b", labels.map((label) => [label, label]), b);
  const heads = ["task", "A", "B", "A − B", "A better", "B better", "the same", ""];
  const notes = ["", "", "", "95% over items, paired", "items", "items", "items", ""];
  replace("comparison",
    el("thead", {}, el("tr", {}, heads.map((head, place) =>
      el("th", { scope: "col" }, head, el("small", {}, notes[place]))))),
    el("tbody", {}, a === b ? [] : compareRows(held, a, b)));
}
