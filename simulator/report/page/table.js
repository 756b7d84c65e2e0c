// Every plan as a row: sorted by a head, filtered by a text, a hundred at a time, walked through with the arrow keys.

const AT_ONCE = 100;
const TEXTS = ["limited by", "breaks", "changes answers"];
const hasText = (name) => data.facts[name].texts.some(Boolean);
// What is ranked by, the first axes, texts, then the other metrics.
const [leading, others] = [[...metrics.keys()].slice(0, 2), [...metrics.keys()].slice(2)];
const columnNames = [...new Set([data.objective, ...leading, ...TEXTS.filter(hasText), ...others])]
  .filter((name) => metrics.has(name) || TEXTS.includes(name));
const FIRST_COLUMNS = 14; // the others are to be chosen

function compare(view) {
  const { column, isDown } = view.sort;
  if (column === "") return () => 0; // as the search ranked them
  const key = column === "plan" ? (plan) => data.plans[plan]
    : TEXTS.includes(column) ? (plan) => fact(column, plan) : (plan) => value(column, plan);
  return (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === null || b === null) return (a === null) - (b === null); // unknown comes last, up or down
    return (isDown ? -1 : 1) * (a < b ? -1 : a > b ? 1 : 0);
  };
}

function drawTable(view, heard) {
  const [head, body] = [document.querySelector("#plans thead"), document.querySelector("#plans tbody")];
  const ordered = [...view.plans].sort(compare(view));
  const isShown = ordered.indexOf(view.chosen);
  const count = Math.min(ordered.length, Math.max(view.rows, isShown + 1));
  const columns = columnNames.filter((name) => view.columns.has(name));
  head.replaceChildren(element("tr", {}, ...["plan", ...columns].map((name) => headOf(name, view, heard))));
  body.replaceChildren(...ordered.slice(0, count).map((plan) => rowOf(plan, columns, view, heard)));
  if (isShown < 0) body.firstElementChild?.setAttribute("tabindex", "0");
  const more = document.getElementById("more");
  more.hidden = count >= ordered.length;
  more.textContent = `Show ${Math.min(AT_ONCE, ordered.length - count)} more of ${ordered.length - count}`;
}

function headOf(name, view, heard) {
  const isText = name === "plan" || TEXTS.includes(name);
  const order = view.sort.column !== name ? "none" : view.sort.isDown ? "descending" : "ascending";
  const title = isText ? name : metrics.get(name).title;
  return element("th", { scope: "col", class: isText ? "text" : null, "aria-sort": order, "data-column": name, title: name },
    element("button", { type: "button", onclick: () => heard.onSort(name) }, title));
}

function rowOf(plan, columns, view, heard) {
  const group = GROUPS[groupOf(plan)];
  const isChosen = plan === view.chosen;
  const mark = element("span", { class: "mark", style: `color:var(--${groupOf(plan)})`, title: group.title }, group.mark);
  const cells = columns.map((name) => TEXTS.includes(name)
    ? element("td", { class: "text" }, fact(name, plan))
    : element("td", { title: shownInterval(name, interval(name, plan)) || null }, ...cellOf(name, plan)));
  return element("tr", {
    "data-plan": plan, "aria-selected": String(isChosen), tabindex: isChosen ? "0" : "-1",
    onclick: () => heard.onChosen(plan), onmouseenter: () => heard.onNear(plan), onmouseleave: () => heard.onNear(null),
  }, element("td", { title: data.plans[plan] }, mark, ` ${data.plans[plan]}`), ...cells);
}

function cellOf(name, plan) {
  const ends = name === data.objective ? interval(name, plan) : null;
  const own = shown(name, value(name, plan));
  return ends === null ? [own] : [own, element("span", { class: "low" }, ` (${shownInterval(name, ends)})`)];
}

// Marks rows without drawing the table again.
function markRows(name, plan) {
  for (const row of document.querySelectorAll(`#plans tr.${name}`)) row.classList.remove(name);
  if (plan !== null) document.querySelector(`#plans tr[data-plan="${plan}"]`)?.classList.add(name);
}

function chooseRow(plan) {
  for (const row of document.querySelectorAll("#plans tbody tr")) {
    const isChosen = Number(row.dataset.plan) === plan;
    row.setAttribute("aria-selected", String(isChosen));
    row.tabIndex = isChosen ? 0 : -1;
  }
}

function walkRows(event, heard) {
  const row = event.target.closest("tbody tr");
  const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling,
    Home: row?.parentElement.firstElementChild, End: row?.parentElement.lastElementChild,
    Enter: row, " ": row }[event.key];
  if (!next) return;
  event.preventDefault();
  heard.onChosen(Number(next.dataset.plan));
  next.focus();
}
