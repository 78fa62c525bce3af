// What is shown, kept in the address after the '#': copy the address and you share the view.

const DEFAULTS = { board: "0", view: "", sort: "ability", order: "", family: "", search: "", plot: "ability",
  cost: "extra_parameters", a: "", b: "", task: "" };

let state = { ...DEFAULTS };

function readState() {
  const asked = new URLSearchParams(location.hash.slice(1));
  state = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) {
    if (asked.has(name)) state[name] = asked.get(name);
  }
  const named = BOARDS.findIndex(({ board }) => nameOf(board) === state.board);
  if (named >= 0) state.board = String(named);
  if (!BOARDS[Number(state.board)]) state.board = DEFAULTS.board;
}

function setState(changes) {
  Object.assign(state, changes);
  const kept = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name] && name !== "board");
  if (BOARDS.length > 1) kept.unshift(["board", nameOf(current().board)]);
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
  render();
}

// A board's name, which stays where others come or go; addresses may also count boards from 0.
function nameOf(board) {
  return `${board.suite} on ${board.zoo}`;
}

function current() {
  return BOARDS[Number(state.board)];
}

// The view asked for, where the board has it.
function currentView() {
  const views = viewsOf(current());
  return views.includes(state.view) ? state.view : views[0];
}

// The rows that pass the family and the search.
function visibleRows() {
  const words = state.search.toLowerCase();
  return current().board.rows.filter((row) =>
    (!state.family || row.family === state.family)
    && (!words || `${row.label} ${row.family} ${row.source ?? ""}`.toLowerCase().includes(words)));
}
