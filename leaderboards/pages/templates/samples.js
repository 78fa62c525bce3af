// What was asked, wanted and answered, the documents that methods disagree on first.

function renderSamples() {
  const samples = current().extra.samples;
  document.getElementById("samples-section").hidden = !samples;
  if (!samples) return;
  const tasks = Object.keys(samples.tasks);
  const task = tasks.includes(state.task) ? state.task : tasks[0];
  options("task", tasks.map((name) => [name, name]), task);
  const { total, items } = samples.tasks[task];
  replace("samples-note",
    `${items.length} of ${total} documents of ${task}, seed ${samples.seed}; long texts are cut.`);
  replace("samples", items.map(document_));
}

function document_(item, place) {
  return el("details", { class: "sample", open: place === 0 },
    el("summary", {}, el("span", { class: "soft" }, `${item.doc_id} `), item.target || "(no target)",
      el("span", { class: "chip" }, `${item.answers.length} ${item.answers.length === 1 ? "answer" : "answers"}`)),
    el("dl", {}, el("dt", {}, "prompt"), el("dd", { class: "text" }, item.prompt),
      el("dt", {}, "target"), el("dd", { class: "text" }, item.target)),
    el("table", {}, el("thead", {}, el("tr", {}, ["methods", "score", "output"].map((head) =>
      el("th", { scope: "col" }, head)))),
    el("tbody", {}, item.answers.map(answer))));
}

function answer({ labels, score, output }) {
  return el("tr", {}, el("th", { scope: "row" }, labels.map((label, place) => [place ? ", " : "", breakable(label)])),
    el("td", {}, number(score)),
    el("td", { class: "text" }, output || el("span", { class: "soft" }, output === null ? "likelihood only" : "(empty)")));
}
