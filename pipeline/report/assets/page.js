"use strict";
// Draws every chart from the tables in this file, and updates charts, sentences, tables and queries with the controls.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const tables = Object.fromEntries(Object.entries(page.tables).map(([name, table]) => [name, rowsOf(table)]));
  const form = document.querySelector(".controls");
  const views = new Map();
  const state = { history: null, text: null, estimator: null, colours: null };
  const drawingOnly = ["estimator", "colours"]; // controls that select no rows
  let theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";

  function rowsOf({ rows, columns }) {
    const read = Object.entries(columns).map(([name, c]) => [name, c.words ? (i) => c.words[c.at[i]] : (i) => c[i]]);
    return Array.from({ length: rows }, (_, i) => Object.fromEntries(read.map(([name, at]) => [name, at(i)])));
  }

  // Random tokens are subtracted from the last selected text that is not random itself.
  function read() {
    for (const name of Object.keys(state)) {
      state[name] = form.elements[name]?.value ?? Object.keys(page.where[name] ?? {})[0];
    }
    state.gaps = state.text.startsWith("random-") ? state.gaps ?? state.text : state.text;
  }

  const choice = (section, control) => (control === "text" && section.table === "gaps" ? state.gaps : state[control]);

  function rowsBehind(section, name = section.table) {
    const by = section.controls.filter((control) => !drawingOnly.includes(control));
    const only = name === section.table ? section.only : [];
    return tables[name].filter(
      (row) =>
        by.every((control) => row[control] === choice(section, control)) &&
        only.every((column) => row[column] !== false && row[column] !== null),
    );
  }

  // Vega modifies the rows that it receives, so each chart gets copies.
  function dataOf(name) {
    const section = page.sections[name];
    const used = Object.keys(tables).filter((table) => JSON.stringify(page.specs[name]).includes(`"name":"${table}"`));
    return Object.fromEntries(used.map((table) => [table, rowsBehind(section, table).map((row) => ({ ...row }))]));
  }

  function fitted(spec, room) {
    const { full, small } = page.widths;
    const copy = structuredClone(spec);
    const facets = Object.keys(page.where.history).length;
    narrowLegends(copy, room);
    if (copy.columns) copy.columns = Math.max(1, Math.min(facets, Math.floor(room / (small + 70))));
    if (copy.width === full) return { ...copy, width: room, autosize: { type: "fit-x", contains: "padding" } };
    for (const part of copy.vconcat ?? [copy.spec]) {
      if (part.width === full) part.width = Math.max(220, room - 70);
      else part.width = Math.max(150, Math.floor(room / copy.columns) - 75);
    }
    return copy;
  }

  // Legends that state a number of columns take fewer in a narrow window.
  function narrowLegends(spec, room) {
    for (const value of Object.values(spec)) {
      if (value?.legend?.columns) value.legend.columns = Math.max(1, Math.min(value.legend.columns, Math.floor(room / 200)));
      if (value && typeof value === "object") narrowLegends(value, room);
    }
  }

  async function draw(element) {
    const name = element.dataset.section;
    const section = page.sections[name];
    views.get(name)?.finalize();
    const spec = fitted(page.specs[name], element.parentElement.clientWidth);
    for (const param of spec.params) param.value = choice(section, param.name);
    spec.datasets = dataOf(name);
    const config = page.themes[theme];
    // Log errors only: an empty band is expected for an estimator without standard errors.
    const options = { mode: "vega-lite", renderer: "svg", actions: false, logLevel: 1, config };
    const { view } = await vegaEmbed(element, spec, options);
    views.set(name, view);
  }

  async function drawAll() {
    for (const element of document.querySelectorAll(".chart")) {
      await new Promise((done) => setTimeout(done)); // keep the page responsive between charts
      await draw(element);
    }
    document.documentElement.dataset.drawn = String(views.size);
  }

  async function show() {
    read();
    for (const line of document.querySelectorAll(".says")) {
      line.hidden = ["history", "text"].some((by) => by in line.dataset && line.dataset[by] !== state[by]);
    }
    for (const [name, section] of Object.entries(page.sections)) {
      const empty = rowsBehind(section).length === 0;
      const chart = document.querySelector(`.chart[data-section="${name}"]`);
      chart.parentElement.hidden = empty;
      chart.closest("figure").querySelector(".nothing").hidden = !empty;
      document.querySelector(`code[data-section="${name}"]`).textContent = query(section);
      document.querySelector(`.shows[data-section="${name}"]`).textContent = subject(section);
      const details = document.querySelector(`details[data-section="${name}"]`);
      if (details.open) fill(details);
      const view = views.get(name);
      if (!view) continue;
      for (const control of section.controls) view.signal(control, choice(section, control));
      for (const [table, rows] of Object.entries(dataOf(name))) view.data(table, rows);
      await view.runAsync();
    }
  }

  function subject(section) {
    const estimator = form.querySelector("[name=estimator]:checked").parentElement.textContent.trim();
    const words = { history: state.history, text: choice(section, "text"), estimator: `dimension by ${estimator}` };
    const scope = section.controls.includes("history") ? [] : ["all models"];
    return [...scope, ...section.controls.map((control) => words[control])].filter(Boolean).join(" · ");
  }

  function query(section) {
    if (section.figure) return `shapelake figure ${section.figure} --lake ${page.lake} -o ${section.figure}.svg`;
    const where = (control) => page.where[control][choice(section, control)];
    const sql = section.query.replaceAll("{history}", () => where("history")).replaceAll("{text}", () => where("text"));
    return `shapelake query "${sql}" --lake ${page.lake}`;
  }

  // Tables behind charts are built when they are opened, since few readers open them all.
  function fill(details) {
    const section = page.sections[details.dataset.section];
    const table = document.createElement("table");
    table.className = "sortable";
    const head = table.createTHead().insertRow();
    for (const column of section.columns) {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = column === "history" ? "model" : column.replaceAll("_", " ");
      cell.scope = "col";
      cell.ariaSort = "none";
      cell.append(button);
      head.append(cell);
    }
    const body = table.createTBody();
    for (const row of rowsBehind(section)) {
      const line = body.insertRow();
      for (const column of section.columns) {
        const cell = line.insertCell();
        cell.textContent = row[column] ?? "";
        if (typeof row[column] === "number") cell.className = "number";
      }
    }
    details.querySelector(".scroll").replaceChildren(table);
  }

  function save(details) {
    const section = page.sections[details.dataset.section];
    const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const lines = rowsBehind(section).map((row) => section.columns.map((name) => quoted(String(row[name] ?? ""))));
    const link = document.createElement("a");
    const csv = [section.columns, ...lines].map((line) => line.join(",") + "\n").join("");
    link.href = URL.createObjectURL(new Blob([csv]));
    link.download = `${details.dataset.section}.csv`;
    link.click();
  }

  function sort(button) {
    const head = button.closest("th");
    const up = head.ariaSort !== "ascending";
    for (const other of head.parentElement.cells) other.ariaSort = "none";
    head.ariaSort = up ? "ascending" : "descending";
    const body = head.closest("table").tBodies[0];
    const collate = new Intl.Collator("en", { numeric: true }).compare;
    const key = (row) => row.cells[head.cellIndex].textContent;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // empty cells last in both orders
      const numbers = Number(a) - Number(b);
      return (up ? 1 : -1) * (Number.isNaN(numbers) ? collate(a, b) : numbers);
    };
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  }

  function paint() {
    document.documentElement.dataset.theme = theme;
    form.elements.theme.textContent = theme === "dark" ? "Light theme" : "Dark theme";
  }

  form.addEventListener("change", (event) => {
    if (event.target.name !== "page") show();
    else if (event.target.value) location.href = event.target.value;
  });
  form.elements.theme.addEventListener("click", () => {
    theme = theme === "dark" ? "light" : "dark";
    paint();
    drawAll();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("th button")) sort(event.target);
    if (event.target.matches(".csv")) save(event.target.closest("details"));
  });
  for (const details of document.querySelectorAll("details.table")) {
    details.addEventListener("toggle", () => details.open && fill(details));
  }
  let width = innerWidth;
  let later;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(later);
    later = setTimeout(drawAll, 150);
  });
  paint();
  show().then(drawAll);
})();
