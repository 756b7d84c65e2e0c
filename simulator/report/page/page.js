// The page's state and who is told of a change: scatter, table and detail show one choice.

const firstKnown = (...paths) => paths.find((path) => metrics.has(path)) ?? [...metrics.keys()][0];
const view = {
  x: firstKnown("tokens_per_s_per_user", data.objective),
  y: firstKnown("throughput_tokens_per_s_per_device", data.objective),
  isLog: true, hasBars: false, chosen: 0, near: null, rows: AT_ONCE, sort: { column: "", isDown: false },
  groups: new Set(Object.keys(GROUPS)), plans: everyPlan, columns: new Set(columnNames.slice(0, FIRST_COLUMNS)),
};
const by = (id) => document.getElementById(id);

const heard = {
  onNear(plan) {
    if (plan === view.near) return;
    view.near = plan;
    drawn?.near(plan);
    markRows("near", plan);
    showHover(plan);
  },
  onChosen(plan) {
    view.chosen = plan;
    drawn?.chosen(plan);
    if (document.querySelector(`#plans tr[data-plan="${plan}"]`)) chooseRow(plan);
    else drawTable(view, heard);
    drawDetail(plan);
  },
  onSort(column) {
    const isSame = view.sort.column === column;
    const isDown = isSame ? !view.sort.isDown : metrics.get(column)?.less === false;
    view.sort = { column, isDown };
    drawTable(view, heard);
    document.querySelector(`#plans th[data-column="${CSS.escape(column)}"] button`)?.focus();
  },
};

let drawing = Promise.resolve();

// One drawing after the other: what was asked for last is what stays.
function redrawScatter() {
  drawing = drawing.then(drawAndExplain);
  return drawing;
}

async function drawAndExplain() {
  const chart = await drawScatter(view, heard);
  chart.chosen(view.chosen);
  const left = view.plans.length - chart.plans;
  const isShaded = [view.x, view.y].some((path) => metrics.get(path).least !== null || metrics.get(path).most !== null);
  by("reading").textContent = [
    chart.front.length > 1 ? "Dashed: no ranked plan is better in both." : "",
    isShaded ? `Shaded: within the limits (${data.limits.join(", ")}).` : "",
    left ? `${left} plans are not drawn: unknown in one of the metrics${view.isLog ? ", or nothing on a logarithmic axis" : ""}.` : "",
    "Choose a point or a row for the plan in full.",
  ].filter(Boolean).join(" ");
}

function refilter() {
  const found = matcher(by("filter").value);
  const status = by("matching");
  status.classList.toggle("warning", Boolean(found.error));
  if (found.error) {
    status.textContent = found.error; // what is shown stays
    return drawing;
  }
  view.plans = everyPlan.filter((plan) => view.groups.has(groupOf(plan)) && found.keeps(plan));
  view.rows = AT_ONCE;
  status.textContent = `${view.plans.length.toLocaleString("en-US")} of ${everyPlan.length.toLocaleString("en-US")} plans`;
  drawTable(view, heard);
  return redrawScatter();
}

const pointer = { x: 0, y: 0 };

// All metrics of the plan under the pointer, beside it.
function showHover(plan) {
  const card = by("hover");
  card.hidden = plan === null || !by("scatter").matches(":hover");
  if (card.hidden) return;
  const rows = [...metrics.values()].filter((metric) => metric.values[plan] !== null)
    .map((metric) => [metric.title, shown(metric.path, metric.values[plan])]);
  card.replaceChildren(element("strong", {}, data.plans[plan]),
    element("div", {}, `${GROUPS[groupOf(plan)].title}${because(plan)}; limited by ${fact("limited by", plan)}`), pairs(rows));
  const [width, height] = [card.offsetWidth, card.offsetHeight];
  const right = pointer.x + 18 + width > innerWidth ? Math.max(4, pointer.x - 18 - width) : pointer.x + 18;
  card.style.left = `${right}px`;
  card.style.top = `${Math.max(4, Math.min(pointer.y + 12, innerHeight - height - 4))}px`;
}

function fillControls() {
  for (const axis of ["x", "y"]) {
    by(axis).append(...[...metrics.values()].map((metric) => element("option", { value: metric.path }, metric.title)));
    by(axis).value = view[axis];
    by(axis).addEventListener("change", () => { view[axis] = by(axis).value; redrawScatter(); });
  }
  by("log").addEventListener("change", () => { view.isLog = by("log").checked; redrawScatter(); });
  by("bars").addEventListener("change", () => { view.hasBars = by("bars").checked; redrawScatter(); });
  for (const [name, group] of Object.entries(GROUPS)) {
    if (!data.facts.group.texts.includes(name)) continue;
    const box = element("input", { type: "checkbox", checked: true, "data-group": name });
    box.addEventListener("change", () => { view.groups[box.checked ? "add" : "delete"](name); refilter(); });
    by("groups").append(element("label", {}, box, element("span", { class: "mark", style: `color:var(--${name})` }, group.mark), group.title));
  }
  for (const name of columnNames) {
    const box = element("input", { type: "checkbox", checked: view.columns.has(name) });
    box.addEventListener("change", () => { view.columns[box.checked ? "add" : "delete"](name); drawTable(view, heard); });
    by("columns").append(element("label", {}, box, metrics.get(name)?.title ?? name));
  }
  by("filter").addEventListener("input", refilter);
  by("more").addEventListener("click", () => { view.rows += AT_ONCE; drawTable(view, heard); });
  by("plans").addEventListener("keydown", (event) => walkRows(event, heard));
  // Heard before the chart hears it, which then says what is near.
  by("scatter").addEventListener("pointermove", (event) => Object.assign(pointer, { x: event.clientX, y: event.clientY }), true);
  by("scatter").addEventListener("mouseleave", () => heard.onNear(null));
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

function retheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  document.documentElement.dataset.shade = isDark() ? "dark" : "light";
  by("theme").textContent = isDark() ? "Light" : "Dark";
}

by("theme").addEventListener("click", () => { retheme(isDark() ? "light" : "dark"); redrawScatter(); });
dark.addEventListener("change", () => { retheme(); redrawScatter(); });
retheme();
fillControls();
drawDetail(view.chosen);
refilter().then(() => { document.documentElement.dataset.ready = "yes"; });
