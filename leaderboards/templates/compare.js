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
  const clear = half !== null && Math.abs(value) > half;
  const verdict = half === null ? "" : !clear ? "no clear difference" : value > 0 !== down ? "A is better" : "B is better";
  return el("tr", {}, el("th", { scope: "row" }, breakable(name), el("small", {}, metric)),
    el("td", {}, number(a.value)), el("td", {}, number(b.value)),
    el("td", { class: clear ? (value > 0 !== down ? "win" : "lose") : "" }, signed(value),
      el("small", {}, half === null ? "" : `${signed(value - half)} to ${signed(value + half)}`)),
    el("td", {}, pair?.items ? `${pair.better}` : "–"), el("td", {}, pair?.items ? `${pair.worse}` : "–"),
    el("td", {}, pair?.items ? `${pair.items - pair.better - pair.worse}` : "–"),
    el("td", { class: "verdict" }, verdict));
}

function compareRows(held, a, b) {
  const [x, y] = [a, b].map((label) => held.board.rows.find((row) => row.label === label && row.origin === "measured"));
  const tasks = held.board.columns.flatMap((column) => {
    const [p, q] = [x, y].map((row) => get(get(row.tasks, column.task)?.metrics, column.metric));
    const pair = pairOf(held, column.task, a, b);
    return p && q ? [difference(column.task, column.metric, p, q, pair, column.direction === "down")] : [];
  });
  if (!x.ability || !y.ability) return tasks;
  const pairs = held.extra.pairs?.ability;
  const [i, j] = [a, b].map((label) => pairs?.labels.indexOf(label) ?? -1);
  const pair = i < 0 || j < 0 ? null : { se: pairs.se[Math.max(i, j)][Math.min(i, j)] };
  return [difference("ability", "mean over the oracle", x.ability, y.ability, pair, false), ...tasks];
}

function renderCompare() {
  const held = current();
  const labels = comparable(held);
  const [a, b] = chosenPair(held);
  options("a", labels.map((label) => [label, label]), a);
  options("b", labels.map((label) => [label, label]), b);
  const heads = ["task", "A", "B", "A − B", "A better", "B better", "the same", ""];
  const notes = ["", "", "", "95% interval, paired", "items", "items", "items", ""];
  replace("comparison",
    el("thead", {}, el("tr", {}, heads.map((head, place) =>
      el("th", { scope: "col" }, head, el("small", {}, notes[place]))))),
    el("tbody", {}, a === b ? [] : compareRows(held, a, b)));
}
