// What a cell shows in each view: {value, se, sd, seeds, kind, heat}, or null where nothing was measured.

const VIEWS = {
  normalised: "Each task's representative metric over the oracle's: 1 is as good as a task's own expert.",
  raw: "The representative metric itself, coloured from the column's worst to its best.",
  gap: "Recovered gap: (method − base) / (oracle − base), 0 is the base and 1 is the oracle.",
  change: "After minus before: the method's score minus that of the base alone, on tasks that no expert was "
    + "trained for. A loss here is oblivion.",
};

const VIEWS_OF_LOSSES = {
  normalised: "Each task's loss minus the oracle's: 0 is as good as a task's own expert, lower is better. Coloured by the "
    + "gap that is recovered.",
  raw: "The loss itself, lower is better, coloured from the column's worst to its best.",
};

function meaning({ board }, view) {
  return (board.losses && VIEWS_OF_LOSSES[view]) || VIEWS[view];
}

// A board of oblivion has no oracle to divide by; gaps need the results, which only some pages were given.
function viewsOf({ board, extra }) {
  if (board.oblivion) return ["change", "raw"];
  return extra.gaps ? ["normalised", "raw", "gap"] : ["normalised", "raw"];
}

const Z95 = 1.96;

function scoreOf(held, row, column, view) {
  const task = get(row.tasks, column.task);
  if (!task) return null;
  const raw = get(task.metrics, column.metric);
  if (view === "normalised") {
    if (task.normalised) return cell(task.normalised, "normalised", task.normalised.value);
    const heat = task.recovered ? task.recovered.value : null;
    if (task.difference) return cell(task.difference, "difference", heat);
  }
  if (view === "gap") return cell(get(gapsOf(held.extra.gaps, row), column.task), "gap");
  if (view === "change") return changeOf(held, row, column);
  return cell(raw, "raw", view === "raw" ? share(held, column, raw) : null);
}

// Gaps are of measured rows; a paper's row may bear the same label.
function gapsOf(gaps, row) {
  return row.origin === "measured" ? get(gaps, row.label) : undefined;
}

function cell(score, kind, heat = score?.value ?? null) {
  if (!score) return null;
  const shade = heat === null ? null : Math.min(Math.max(heat, -1), 1);  // the colour ends, the number does not
  return { value: score.value, se: score.se, sd: score.sd, seeds: score.by_seed ?? {}, kind, heat: shade };
}

// Where a raw value lies between the column's worst and best measured values.
function share(held, column, raw) {
  const values = held.board.rows.map((row) => get(get(row.tasks, column.task)?.metrics, column.metric)?.value);
  const known = values.filter((value) => value !== undefined);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  if (!raw || low === high) return null;
  const place = (raw.value - low) / (high - low);
  return column.direction === "up" ? place : 1 - place;
}

// Shaded by the largest change of the column, among rows of one source; chance gets no colour.
function changeOf(held, row, column) {
  const read = (other) => get(other.tasks, column.task)?.change?.value ?? 0;
  const task = get(row.tasks, column.task);
  const after = get(task?.metrics, column.metric)?.value ?? null;
  const good = column.direction === "up" ? 1 : -1;
  return change(held, row, task?.change, after, read, good);
}

function overallChange(held, row) {
  return change(held, row, row.change, row.overall?.value ?? null, (other) => other.change?.value ?? 0, 1);
}

function change(held, row, score, after, read, good) {
  if (!score) return null;
  const alike = held.board.rows.filter((other) => other.source === row.source);
  const largest = Math.max(...alike.map((other) => Math.abs(read(other)))) || 1;
  const clear = score.se === null || Math.abs(score.value) > Z95 * score.se;
  const heat = clear && score.value !== 0 ? (good * score.value) / largest : null;
  return { ...cell(score, "change", heat), before: after === null ? null : after - score.value, after };
}

// Paired differences of two measured rows on one task; `better` counts the items where a beats b.
function pairOf(held, task, a, b) {
  const pairs = get(held.extra.pairs?.tasks, task);
  const [i, j] = [a, b].map((label) => pairs ? pairs.labels.indexOf(label) : -1);
  if (i < 0 || j < 0) return null;
  return { se: pairs.se[Math.max(i, j)][Math.min(i, j)], better: pairs.better[i][j], worse: pairs.better[j][i],
    items: pairs.items };
}

// What a row is judged by: the ability, or on a board of oblivion the mean change.
function headline(held, row, view = currentView()) {
  if (view === "gap") return cell(gapsOf(held.extra.gap_means, row), "gap");
  if (held.board.losses && view === "raw") return cell(row.losses?.mean, "raw", null);
  if (held.board.losses) return cell(row.losses?.excess, "difference", row.losses?.recovered?.value ?? null);
  if (held.board.oblivion) return view === "raw" ? cell(row.overall, "raw", null) : overallChange(held, row);
  return cell(row.ability, "normalised");
}

function headlineName({ board }, view = currentView()) {
  if (board.losses) return { raw: "loss", gap: "gap" }[view] ?? "Δ loss";
  return board.oblivion ? "overall" : "ability";
}

// Whether a smaller number is the better one.
function isDown({ board }, column, view) {
  return view !== "gap" && (column ? column.direction === "down" : Boolean(board.losses));
}

// The uncertainty that is written beside a number: over seeds where there are several, else over items.
function plusMinus(score) {
  const error = score.sd ?? score.se;
  return error === null || error === undefined ? "" : `±${number(error)}`;
}

function details(name, score) {
  const parts = [`${name} ${Number(score.value.toPrecision(4))}`];
  if (score.se !== null && score.se !== undefined) parts.push(`standard error over items ${score.se.toPrecision(2)}`);
  if (score.sd !== null && score.sd !== undefined) parts.push(`sd over seeds ${score.sd.toPrecision(2)}`);
  const seeds = Object.entries(score.by_seed ?? score.seeds ?? {});
  if (seeds.length > 1) parts.push(seeds.map(([seed, value]) => `seed ${seed}: ${number(value)}`).join(", "));
  return parts.join("; ");
}
