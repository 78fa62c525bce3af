// Two figures drawn as SVG: a forest plot with intervals, and score against cost with its Pareto front.

const FAMILIES = ["floor", "reference", "merging", "routing", "ensembling", "adapters"];

function familyClass(row) {
  const place = FAMILIES.indexOf(row.role === "method" ? row.family : "reference");
  return `family-${place < 0 ? FAMILIES.length : place}`;
}

// A few round numbers between low and high.
function ticks(low, high, wanted = 5) {
  const rough = (high - low || 1) / wanted;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * size).find((candidate) => candidate >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, place) => (first + place) * step);
}

function scale(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

function short(label, letters) {
  return label.length > letters ? `${label.slice(0, letters - 1)}…` : label;
}

function widthOf(id) {
  return Math.max(document.getElementById(id).clientWidth, 260);
}

function figure(width, height, name, ...children) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name }, children);
}

function plotted(held) {
  const column = held.board.columns.find((other) => `task:${other.task}` === state.plot);
  const view = currentView();
  const read = column ? (row) => scoreOf(held, row, column, view) : (row) => headline(held, row, view);
  const rows = visibleRows().filter((row) => row.origin === "measured")
    .map((row) => ({ row, score: read(row) })).filter(({ score }) => score);
  return rows.sort((x, y) => (isDown(held, column, view) ? 1 : -1) * (x.score.value - y.score.value));
}

function interval({ row, score }) {
  const fixed = row.role === "oracle" && score.value === 1 && ["normalised", "gap"].includes(score.kind);
  const half = fixed || score.se === null || score.se === undefined ? 0 : Z95 * score.se;
  return [score.value - half, score.value + half];
}

function forestLine(entry, place, x, left, rowHeight) {
  const y = (place + 0.5) * rowHeight;
  const [low, high] = interval(entry);
  const seeds = Object.values(entry.score.seeds);
  return svg("g", { class: `mark ${familyClass(entry.row)}` },
    svg("title", {}, `${entry.row.label}: ${details(entry.score.kind, entry.score)}`
      + `; 95% interval over items ${number(low)} to ${number(high)}`),
    svg("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, short(entry.row.label, Math.floor(left / 7.4))),
    svg("line", { x1: x(low), x2: x(high), y1: y, y2: y, class: "interval" }),
    seeds.length > 1 ? seeds.map((value) => svg("circle", { cx: x(value), cy: y, r: 2.2, class: "seed" })) : [],
    svg("circle", { cx: x(entry.score.value), cy: y, r: 4.5 }));
}

function renderForest() {
  const entries = plotted(current());
  if (!entries.length) return replace("forest", el("p", { class: "soft" }, "No row has this score."));
  replace("forest-note", "Bars: 95% over items, 1.96 standard errors.",
    current().board.replicates.length > 1 ? " Small circles: zoo seeds." : null);
  const width = widthOf("forest");
  const [left, rowHeight] = [Math.min(190, width * 0.36), 24];
  const spans = [...entries.map(interval), ...entries.map(({ score }) => Object.values(score.seeds))].flat();
  const [low, high] = [Math.min(...spans), Math.max(...spans)];
  const x = scale(low, high, left + 8, width - 14);
  const bottom = entries.length * rowHeight;
  const marks = ticks(low, high, width < 500 ? 3 : 6);
  const one = ["normalised", "gap"].includes(entries[0].score.kind) ? 1 : 0;
  const grid = marks.map((value) => [
    svg("line", { x1: x(value), x2: x(value), y1: 0, y2: bottom, class: "grid" }),
    svg("text", { x: x(value), y: bottom + 17, "text-anchor": "middle", class: "tick" }, tickText(value))]);
  const reference = low <= one && one <= high
    ? [svg("line", { x1: x(one), x2: x(one), y1: 0, y2: bottom, class: "reference" })] : [];
  return replace("forest", figure(width, bottom + 26, "Scores with 95% intervals", grid, reference,
    entries.map((entry, place) => forestLine(entry, place, x, left, rowHeight))));
}

function tickText(value) {
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

// Costs span decades and may be zero: log(1 + cost).
const squash = (cost) => Math.log10(1 + cost);

function onFront(points) {
  let best = -Infinity;
  return points.filter(({ good }) => {
    const better = good > best;
    best = Math.max(best, good);
    return better;
  });
}

function costPoints() {
  const held = current();
  const [usual] = viewsOf(held);  // the front is of the board's own measure, whichever the table shows
  return visibleRows().filter((row) => row.role !== "control" && headline(held, row, usual) && get(row.cost, state.cost) != null)
    .map((row) => ({ row, cost: row.cost[state.cost], score: headline(held, row, usual).value }))
    .map((point) => ({ ...point, good: isDown(held, null, usual) ? -point.score : point.score }))
    .sort((p, q) => p.cost - q.cost || q.good - p.good);
}

function costScore() {
  return headlineName(current(), viewsOf(current())[0]);
}

function renderPareto() {
  const points = costPoints();
  if (!points.length) return replace("pareto", el("p", { class: "soft" }, "No row has a score and this cost."));
  const [width, height, left] = [widthOf("pareto"), 360, 44];
  const costs = points.map(({ cost }) => squash(cost));
  const scores = points.map(({ score }) => score);
  const x = scale(Math.min(...costs), Math.max(...costs), left + 16, width - 24);
  const y = scale(Math.min(...scores), Math.max(...scores), height - 54, 26);
  const front = onFront(points);
  const path = front.map((point, place) =>
    `${place ? `H${x(squash(point.cost))}V` : `M${x(squash(point.cost))},`}${y(point.score)}`).join("");
  return replace("pareto", figure(width, height, `${costScore()} against cost`, axes(points, x, y, width, height, left),
    svg("path", { d: `${path}H${width - 8}`, class: "front" }),
    costMarks(points, front, x, y, width)));
}

// Points, and names of the front and the references where they do not cover another's name.
function costMarks(points, front, x, y, width) {
  const taken = [];
  return points.map((point) => {
    const first = front.includes(point);
    const named = first || point.row.role !== "method";
    return costPoint(point, x(squash(point.cost)), y(point.score), first,
      named ? nameAt(point, x(squash(point.cost)), y(point.score), width, taken) : null);
  });
}

const LETTER = 6.7;  // pixels, about

function nameAt({ row }, cx, cy, width, taken) {
  const name = short(row.label, 26);
  const length = name.length * LETTER;
  const right = cx + 9 + length < width;
  const left = right ? cx + 9 : cx - 9 - length;
  const free = (place) => taken.every((other) => Math.abs(other.y - place) > 12
    || left > other.left + other.length || other.left > left + length);
  const y = [-7, 16, -20, 29].map((shift) => cy + shift).find(free);
  if (y === undefined) return null;
  taken.push({ y, left, length });
  return svg("text", { x: right ? cx + 9 : cx - 9, y, "text-anchor": right ? "start" : "end" }, name);
}

function axes(points, x, y, width, height, left) {
  const scores = points.map(({ score }) => score);
  const costs = points.map(({ cost }) => cost);
  const decades = decadesIn(Math.min(...costs), Math.max(...costs));
  return [
    ticks(Math.min(...scores), Math.max(...scores)).map((value) => [
      svg("line", { x1: left, x2: width - 8, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", class: "tick" }, tickText(value))]),
    decades.map((cost) => [
      svg("line", { x1: x(squash(cost)), x2: x(squash(cost)), y1: 14, y2: height - 40, class: "grid" }),
      svg("text", { x: x(squash(cost)), y: height - 24, "text-anchor": "middle", class: "tick" }, costText(cost))]),
    svg("text", { x: width - 8, y: height - 5, "text-anchor": "end", class: "tick" }, `${costName()} →`)];
}

// Powers of ten in the range; where there are fewer than two, round numbers.
function decadesIn(low, high) {
  const powers = Array.from({ length: 16 }, (_, power) => 10 ** power).filter((cost) => cost >= low && cost <= high);
  const marks = powers.length > 1 ? powers : ticks(low, high, 3);
  return low === 0 && powers.length > 1 ? [0, ...marks.filter((_, place) => place % 2)] : marks;
}

function costText(cost) {
  return cost >= 1000 ? amount(cost) : tickText(cost);
}

function costName() {
  return document.getElementById("cost").selectedOptions[0]?.textContent ?? state.cost;
}

function costPoint({ row, cost, score }, cx, cy, front, name) {
  return svg("g", { class: `mark ${familyClass(row)} ${front ? "on-front" : ""}` },
    svg("title", {}, `${row.label}: ${costScore()} ${number(score)}, ${costName()} ${costText(cost)}`),
    svg("circle", { cx, cy, r: front ? 6 : 4.5 }), name);
}

function renderLegend() {
  const seen = new Map(visibleRows().filter((row) => row.origin === "measured")
    .map((row) => [familyClass(row), row.role === "method" ? row.family : "reference, floor and control"]));
  replace("legend", [...seen].map(([name, family]) =>
    el("span", { class: `key ${name}` }, el("i", { "aria-hidden": "true" }), family)));
}
